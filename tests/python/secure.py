"""Keys and certificates that tests make for themselves."""
import os
import subprocess

import grpc

from support import BUILD


def key_command(*args):
    return subprocess.run([str(BUILD / "gemmactl"), "key", *map(str, args)], capture_output=True, text=True, timeout=60)


def make_key(path, name, *options):
    """Adds a key to the file; the key."""
    done = key_command("add", name, "--keys", path, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def bearer(key):
    return (("authorization", f"Bearer {key}"),)


class Certificates:
    """An authority, a server's certificate for 127.0.0.1 and localhost, a client's; and an authority nobody knows.
    Made with openssl's command: elliptic curves, so that it takes no time."""

    def __init__(self, folder):
        self.dir = folder
        for ca in ("ca", "other-ca"):
            self._run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "60",
                      "-subj", f"/CN=gemmad test {ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.pem")
        self.sign("server", "ca", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self.sign("client", "ca", "subjectAltName=DNS:client")
        self.sign("stranger", "other-ca", "subjectAltName=DNS:client")

    def _run(self, *args):
        subprocess.run(["openssl", *args], cwd=self.dir, check=True, capture_output=True, timeout=60)

    def sign(self, name, ca, names, days=60):
        (self.dir / f"{name}.ext").write_text(names + "\n")
        self._run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
                  "-keyout", f"{name}.key", "-out", f"{name}.csr")
        self._run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
                  "-days", str(days), "-extfile", f"{name}.ext", "-out", f"{name}.pem")
        os.chmod(self.dir / f"{name}.key", 0o600)

    def path(self, name):
        return str(self.dir / name)

    def read(self, name):
        return (self.dir / name).read_bytes()

    def channel(self, address, ca="ca", client=None):
        credentials = grpc.ssl_channel_credentials(self.read(f"{ca}.pem"),
                                                   self.read(f"{client}.key") if client else None,
                                                   self.read(f"{client}.pem") if client else None)
        return grpc.secure_channel(address, credentials, options=[("grpc.use_local_subchannel_pool", 1),
                                                                  ("grpc.enable_http_proxy", 0)])
