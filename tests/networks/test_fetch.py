"""``daag weights fetch`` against a small hub on this machine: what is taken, what is left, what is refused."""

import dataclasses
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from daag_jax.cli import main
from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.config import VaeConfig

huggingface_hub = pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY_VAE = VaeConfig(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=4)


def tag_of(body):
    """The name that git gives to these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Files of a repository by name: one network in two precisions, and what is never to be taken."""
    import jax
    import jax.numpy as jnp

    folder = tmp_path_factory.mktemp("repository")
    ones = jax.tree.map(lambda x: jnp.ones(x.shape), weights.vae_shapes(TINY_VAE))
    weights.save(ones, folder / "full.safetensors")
    weights.save(ones, folder / "half.safetensors", jnp.float16)
    card = json.dumps({"_class_name": "AutoencoderKL"} | dataclasses.asdict(TINY_VAE))
    return {
        "model_index.json": b"{}",
        "vae/config.json": card.encode(),
        "vae/diffusion_pytorch_model.safetensors": (folder / "full.safetensors").read_bytes(),
        "vae/diffusion_pytorch_model.fp16.safetensors": (folder / "half.safetensors").read_bytes(),
        "vae/diffusion_pytorch_model.bin": b"a pickle",
        "safety_checker/model.safetensors": b"not wanted",
        "v1-5-pruned.safetensors": b"very large",
    }


@pytest.fixture
def hub(repository, monkeypatch):
    """A server that answers as the hub does; gives the list of files that were asked for."""
    taken = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def answer(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            path = self.path.split("?")[0]
            if path.startswith("/api/models/owner/small/revision/"):
                siblings = [{"rfilename": name} for name in repository]
                found = {"id": "owner/small", "sha": COMMIT, "siblings": siblings}
                return self.answer(200, json.dumps(found).encode(), Content_Type="application/json")
            if path == f"/api/models/owner/small/tree/{COMMIT}":
                tree = [
                    {"type": "file", "path": name, "size": len(body), "oid": tag_of(body)}
                    for name, body in repository.items()
                ]
                return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            name = path.removeprefix(f"/owner/small/resolve/{COMMIT}/")
            if name not in repository:
                return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
            body = repository[name]
            if self.command == "GET":
                taken.append(name)
            return self.answer(200, body, ETag=f'"{tag_of(body)}"', X_Repo_Commit=COMMIT)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield taken
    server.shutdown()


@pytest.mark.parametrize("half", [False, True])
def test_what_can_be_loaded_is_fetched_and_checked(half, hub, repository, tmp_path, capsys):
    main(["weights", "fetch", "owner/small", str(tmp_path), *["--half"] * half])
    name = "diffusion_pytorch_model" + (".fp16" if half else "") + ".safetensors"
    assert sorted(hub) == ["model_index.json", "vae/config.json", f"vae/{name}"]
    assert (tmp_path / "vae" / name).read_bytes() == repository[f"vae/{name}"]
    assert "yes" in capsys.readouterr().out


def test_a_second_fetch_takes_nothing(hub, tmp_path):
    main(["weights", "fetch", "owner/small", str(tmp_path)])
    hub.clear()
    main(["weights", "fetch", "owner/small", str(tmp_path)])
    assert hub == []


def test_a_repository_that_is_not_there_is_named(hub, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["weights", "fetch", "owner/other", str(tmp_path)])
    assert "owner/other at main cannot be fetched" in capsys.readouterr().err


def test_what_came_damaged_is_refused(hub, repository, tmp_path, monkeypatch, capsys):
    name = "vae/diffusion_pytorch_model.safetensors"
    monkeypatch.setitem(repository, name, repository[name][:-100])
    with pytest.raises(SystemExit):
        main(["weights", "fetch", "owner/small", str(tmp_path)])
    assert "cut short" in capsys.readouterr().err
