"""Where weights are looked for, and downloads that go wrong: one clear error each, the cache left clean."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import ssl
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import HEAD, NAME, STEM, Evil, changed, released, saved, truncated, written
from released_facts import released_keys

import mobile_cv_nas as nas
from mobile_cv_nas.model_zoo.weights import WeightsError, load_weights
from mobile_cv_nas.weights.fetch import cache_folder


def card_of(path: Path, sha256: str | None = None):
    """The card of the network with the file as what its URL names."""
    card = nas.get_card(NAME)
    return replace(card, weights=replace(card.weights, url=path.as_uri(), sha256=sha256))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MOBILE_CV_NAS_HOME", str(folder))
    return folder


def contents(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) if folder.exists() else []


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MOBILE_CV_NAS_HOME", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MOBILE_CV_NAS_HOME")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert cache_folder().is_relative_to(tmp_path / "torch")


def test_the_cache_comes_before_a_download_and_a_path_before_the_cache(cache, tmp_path):
    cache.mkdir()
    released(cache / f"{NAME}.pth")
    assert nas.fbnet_builder(NAME, pretrained=True).state_dict()[STEM].unique().tolist() == [1]
    theirs = "backbone.stages.xif0_0.conv.weight"
    path = released(tmp_path / "mine.pth", **{theirs: torch.full(released_keys(NAME)[theirs], 2.0)})
    assert nas.fbnet_builder(NAME, pretrained=True, weights=path).state_dict()[STEM].unique().tolist() == [2]


@pytest.mark.parametrize("progress", [True, False])
def test_a_download_is_checked_and_kept(progress, cache, tmp_path, capsys):
    path = released(tmp_path / "model.pth")
    card = card_of(path, hashlib.sha256(path.read_bytes()).hexdigest())
    network = nas.fbnet_builder(NAME)
    load_weights(network, card, progress=progress)
    assert network.state_dict()[STEM].unique().tolist() == [1]
    assert contents(cache) == [f"{NAME}.pth"]
    assert (f"{NAME}.pth" in capsys.readouterr().err) == progress
    path.unlink()  # from now on only the cache has it
    load_weights(nas.fbnet_builder(NAME), card)


DOWNLOADS = {
    "truncated": (truncated, None, "truncated"),
    "hash": (released, "0" * 64, "sha256"),
    "code": (lambda p: saved({"a": Evil()}, p), None, "code"),
    "other network": (lambda p: released(p, "FBNetV2_F0"), None, "not the weights of"),
    "other classes": (
        changed(lambda s: s.update({HEAD: s[HEAD][:5], "head.conv.bias": s["head.conv.bias"][:5]})),
        None,
        "classifier.*is 5",
    ),
    "empty": (written(b""), None, "[Ee]mpty"),
    "missing": (lambda p: p, None, "could not be downloaded"),
}


@pytest.mark.parametrize("case", DOWNLOADS)
def test_a_bad_download_leaves_the_cache_clean(case, cache, tmp_path):
    write, sha256, message = DOWNLOADS[case]
    path = write(tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(nas.fbnet_builder(NAME), card_of(path, sha256), progress=False)
    assert path.as_uri() in str(caught.value)
    assert contents(cache) == []


def test_no_network_names_the_url_and_the_path(cache, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    card = nas.get_card(NAME)
    url = "https://127.0.0.1:1/model.pth"  # nobody listens there
    with pytest.raises(WeightsError) as caught:
        load_weights(nas.fbnet_builder(NAME), replace(card, weights=replace(card.weights, url=url)), progress=False)
    assert url in str(caught.value)
    assert str(cache / f"{NAME}.pth") in str(caught.value)
    assert contents(cache) == []


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of an https server: /insecure, /away and /moved redirect to http, file and https; /half ends early."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    names = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem", "-subj", "/CN=localhost"]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    released(tmp_path / "model.pth")
    whole = (tmp_path / "model.pth").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            targets = {"/insecure": "http://127.0.0.1/model.pth", "/away": "file:///etc/passwd", "/moved": "/model.pth"}
            self.send_response(302 if self.path in targets else 200)
            self.send_header(*("Location", targets[self.path]) if self.path in targets else ("Content-Length", str(len(whole))))
            self.end_headers()
            self.wfile.write(b"" if self.path in targets else whole[:1000] if self.path == "/half" else whole)

        def log_message(self, *args):
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as served:
        served.socket = context.wrap_socket(served.socket, server_side=True)
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_redirects_stay_on_https(cache, server):
    for path, message in (("insecure", "http://127.*refused"), ("away", "refused|not allowed"), ("half", "ended after 1,000 of")):
        card = nas.get_card(NAME)
        card = replace(card, weights=replace(card.weights, url=f"{server}/{path}", sha256=None))
        with pytest.raises(WeightsError, match=message):
            load_weights(nas.fbnet_builder(NAME), card, progress=False)
        assert contents(cache) == []
    card = replace(card, weights=replace(card.weights, url=f"{server}/moved"))
    network = nas.fbnet_builder(NAME)
    load_weights(network, card, progress=False)
    assert network.state_dict()[STEM].unique().tolist() == [1]


@pytest.mark.parametrize("url", ["http://a.example/m", "ftp://a.example/m", "https:///m", "https://u:p@a.example/m"])
def test_other_urls_are_refused(url, cache):
    card = nas.get_card(NAME)
    with pytest.raises(WeightsError, match="refused"):
        load_weights(nas.fbnet_builder(NAME), replace(card, weights=replace(card.weights, url=url)))


def test_a_cached_file_of_another_hash_is_named_and_kept(cache, tmp_path):
    cache.mkdir()
    path = released(cache / f"{NAME}.pth")
    with pytest.raises(WeightsError, match=r"sha256.*fetch it again"):
        load_weights(nas.fbnet_builder(NAME), card_of(path, "0" * 64))
    assert contents(cache) == [path.name]


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOBILE_CV_NAS_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="could not be downloaded"):
        load_weights(nas.fbnet_builder(NAME), card_of(released(tmp_path / "model.pth")), progress=False)


@pytest.mark.parametrize("source", ["FBNetV2_F0", "arch"])
def test_no_pretrained_weights(source):
    with pytest.raises(WeightsError, match=r"list_models\(pretrained=True\)|weights=PATH"):
        nas.fbnet_builder(nas.get_arch(NAME) if source == "arch" else source, pretrained=True)
