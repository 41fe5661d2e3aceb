#!/usr/bin/env bash
# The Debian 12 packages of gemmad: the one list that the scripts install from.
#
#   deploy/packages.sh build    what building and running needs
#   deploy/packages.sh test     that and what tests/run.sh needs
#   deploy/packages.sh list     prints them
#
# Installs what is missing and nothing else; silent and without network when all is there. Works as root, or with sudo.
set -euo pipefail

packages_build=(
    gcc libc6-dev make cmake ninja-build pkgconf
    libjansson-dev                            # JSON: configuration, checkpoints
    libedit-dev                               # line editing of `gemmactl chat`
    libuv1-dev                                # the coordinator's event loop
    libgrpc-dev                               # gRPC C core: server and command line
    libmicrohttpd-dev                         # HTTP server
    libgnutls28-dev                           # TLS: certificates are checked, HTTP is encrypted
    libprotobuf-c-dev protobuf-c-compiler     # messages in C
    protobuf-compiler                         # descriptors for server reflection
    libopenmpi-dev openmpi-bin                # ranks
    libsystemd-dev                            # readiness, sockets handed over
    libnuma-dev                               # which CPU belongs to which NUMA node
)
packages_test=(
    g++                                       # the GPU's kernels, run on the CPU
    clang libclang-rt-14-dev                  # fuzz targets
    python3 python3-venv                      # clients and checks
    chromium                                  # the pages, as people see them
    xz-utils                                  # the real tokenizer is kept packed
    iproute2 procps util-linux mount          # cluster tests; processes, address-space randomisation, full disks
    openssl                                   # certificates
    dpkg-dev file systemd                     # the Debian package; units are looked at, not started
    git ca-certificates
)

missing_of() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || echo "$package"
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif ! command -v sudo >/dev/null; then
        echo "packages: neither root nor sudo; run as root: $*" >&2
        return 1
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@" || { echo "packages: sudo asks for a password and there is no terminal; run: sudo $*" >&2; return 1; }
    fi
}

install_packages() {
    local missing
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        echo "packages: this is no Debian; these must be there under whatever name: $*" >&2
        return 0
    fi
    mapfile -t missing < <(missing_of "$@")
    [ "${#missing[@]}" -eq 0 ] && return 0
    echo "installing ${#missing[@]} packages: ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends "${missing[@]}"
}

case "${1:-}" in
    build) install_packages "${packages_build[@]}" ;;
    test) install_packages "${packages_build[@]}" "${packages_test[@]}" ;;
    list) printf '%s\n' "${packages_build[@]}" "${packages_test[@]}" ;;
    *) echo "usage: deploy/packages.sh build|test|list" >&2; exit 2 ;;
esac
