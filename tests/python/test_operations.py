"""What an administrator meets: the Debian package, the units, sockets that a service manager hands over."""
import contextlib
import os
import shutil
import socket
import subprocess
import sys

import pytest

import support

UNITS = support.ROOT / "deploy" / "systemd"


@contextlib.contextmanager
def started(command, log, **options):
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, **options)
    try:
        yield process
        process.terminate()
        assert process.wait(support.PATIENCE_SECONDS) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The package's files, as dpkg would lay them out."""
    if not (support.BUILD / "CPackConfig.cmake").exists() or not shutil.which("dpkg-shlibdeps"):
        pytest.skip("no CPack configuration, or dpkg-dev is not installed")
    out = tmp_path_factory.mktemp("package")
    subprocess.run(["cpack", "-G", "DEB", "-B", out], cwd=support.BUILD, check=True, capture_output=True)
    (package,) = out.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package, out / "root"], check=True)
    subprocess.run(["dpkg-deb", "-e", package, out / "control"], check=True)
    return out


def test_the_package_holds_what_it_should(unpacked):
    root, control = unpacked / "root", unpacked / "control"
    for name in ("usr/bin/gemmad", "usr/bin/gemmad-shard", "usr/bin/gemmactl", "etc/gemmad/gemmad.conf",
                 "usr/share/man/man1/gemmad.1", "usr/share/bash-completion/completions/gemmactl", "usr/lib/systemd/system/gemmad.service"):
        assert (root / name).is_file(), name
    assert not (root / "usr/local").exists()
    fields = (control / "control").read_text()
    for package in ("openmpi-bin", "libgrpc", "libmicrohttpd12", "libuv1", "libprotobuf-c1", "libjansson4"):
        assert package in fields.split("Depends:")[1].splitlines()[0]
    assert (control / "conffiles").read_text().split() == ["/etc/gemmad/gemmad.conf"]
    for script in ("postinst", "prerm", "postrm"):
        subprocess.run(["sh", "-n", control / script], check=True)


def test_the_packaged_programs_answer(unpacked, tmp_path):
    """From the unpacked tree, with the packaged configuration and one line added to it."""
    root = unpacked / "root"
    config = tmp_path / "gemmad.conf"
    config.write_text((root / "etc/gemmad/gemmad.conf").read_text() + f"model = {support.MODELS / 'tiny-dense'}\n")
    server = f"unix:{tmp_path}/s"
    with started([root / "usr/bin/gemmad", "--config", config, "--listen", server, "--state", tmp_path / "state"],
                         log=tmp_path / "log"):
        ctl = [root / "usr/bin/gemmactl", "--server", server]
        subprocess.run([*ctl, "status", "--wait", "60"], check=True, capture_output=True)
        said = subprocess.run([*ctl, "generate", "--max-tokens", "3", "--prompt", "hello"], check=True, capture_output=True, text=True)
        assert said.stdout


def test_units_name_what_is_installed(unpacked):
    for unit in UNITS.iterdir():
        text = unit.read_text()
        assert text == (unpacked / "root/usr/lib/systemd/system" / unit.name).read_text()
        for line in text.splitlines():
            if line.startswith("ExecStart="):
                assert (unpacked / "root" / line.split("=")[1].split()[0].lstrip("/")).is_file()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_units_are_hardened():
    done = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--no-pager", UNITS / "gemmad.service"],
                          capture_output=True, text=True)
    level = float(done.stdout.rsplit("Overall exposure level for gemmad.service:", 1)[1].split()[0])
    assert level < 3, done.stdout


def test_sockets_are_handed_over(tmp_path):
    """As systemd does it: descriptors from 3 on, LISTEN_PID is the process itself. The listener is there before gemmad."""
    path, server = tmp_path / "s", f"unix:{tmp_path}/s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    os.chmod(path, 0o600)
    listener.listen()
    hand_over = ("import os, sys; os.dup2(int(sys.argv[1]), 3); "
                 "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='grpc'); "
                 "os.execv(sys.argv[2], sys.argv[2:])")
    os.set_inheritable(listener.fileno(), True)
    command = [sys.executable, "-c", hand_over, str(listener.fileno()), support.BUILD / "gemmad", "--model",
               support.MODELS / "tiny-dense", "--listen", "systemd:grpc", "--state", tmp_path / "state"]
    with started(command, log=tmp_path / "log", pass_fds=[listener.fileno()]):
        done = support.ctl("status", "--wait", "60", server=server)
        assert done.returncode == 0, done.stderr
    assert path.exists()  # the manager's, not gemmad's
    listener.close()
