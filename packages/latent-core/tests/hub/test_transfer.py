"""Pushing, pulling and loading through the real client and a loopback Hub."""

import json

import pytest
import torch

from latent.core.testing.hub import LoopbackHub

SAME = """
import torch
from latent.core import AutoLatent
one, two = AutoLatent.from_pretrained({one!r}), AutoLatent.from_pretrained({two!r})
value = type(one) is type(two) and all(torch.equal(one.state_dict()[k], two.state_dict()[k]) for k in one.state_dict())
"""


@pytest.fixture(scope="module")
def run(shared_latent):
    """A finished run folder of the toy method."""
    shared_latent("run", "toy/regression", "--preset", "smoke", "--out", "runs/toy", "--seed", "3")
    return shared_latent.folder / "runs/toy"


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub(large_files=True, tokens={"hf_loopback": "me", "hf_other": "you"}) as hub:
        yield hub


@pytest.fixture(scope="module")
def world(toy_world, hub, start_client):
    """connect(home, token): a client of the Hub with a cache of its own."""
    folder, environment = toy_world
    known = {}

    def connect(home="home", token="hf_loopback", **more):
        key = (home, token, *more.items())
        if key not in known:
            variables = {**environment, **hub.environment(folder / home, token=token), **more}
            known[key] = start_client(variables, folder)
        return known[key]

    return connect


@pytest.fixture(scope="module")
def published(world, hub, run):
    """A repository that holds the run's model."""
    code, out, err = world().latent("push", run, "me/toy", "--license", "mit")
    assert code == 0, err
    return out


def front(card):
    import yaml

    return yaml.safe_load(card.split("---\n")[1])


def test_push_sends_a_whole_model_in_one_commit(published, hub, run):
    files = hub.files("me/toy")
    assert set(files) == {"README.md", "config.json", "model.safetensors", "results.json", "run.json"}
    assert files["model.safetensors"] == (run / "model/model.safetensors").read_bytes()
    assert hub.repositories["me/toy"].titles == ["Push toy/regression with latent"]
    assert hub.repositories["me/toy"].large == {"model.safetensors"}
    assert "Commit " + hub.repositories["me/toy"].resolve("main") in published
    assert "model.safetensors  " in published


def test_results_and_run_are_those_of_the_arm(published, hub, run):
    results = json.loads(hub.files("me/toy")["results.json"])
    measured = json.loads((run / "arms/toy/seed-3/result.json").read_text())["measures"]
    assert results == {
        "method": "toy/regression", "preset": "smoke", "arm": "toy", "seed": 3, "measures": measured
    }  # fmt: skip
    ran = json.loads(hub.files("me/toy")["run.json"])
    assert ran["command"] == "latent run toy/regression --preset smoke --seed 3"
    assert ran["hardware"]
    assert ran["versions"]["torch"] == torch.__version__


def test_the_card_says_what_it_is(published, hub, run):
    card = hub.files("me/toy")["README.md"].decode()
    head = front(card)
    assert head["library_name"] == "latent"
    assert head["tags"] == ["latent", "toy", "regression"]
    assert head["license"] == "mit"
    (entry,) = head["model-index"]
    assert entry["name"] == "me/toy"
    (result,) = entry["results"]
    measured = json.loads((run / "arms/toy/seed-3/result.json").read_text())["measures"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == measured
    assert 'AutoLatent.from_pretrained("me/toy")' in card
    assert "pip install toy-plugin" in card
    assert "@article{regression1809" in card
    assert "| features | 3 |" in card
    assert "None" not in card
    assert all(value not in (None, "", [], {}) for value in head.values())


def test_a_published_model_is_the_same_bit_by_bit(published, world, run):
    assert world().python(SAME.format(one="me/toy", two=str(run / "model")))


def test_pull_prints_the_folder_and_copies_it_whole(published, world, hub, tmp_path):
    code, out, _ = world().latent("pull", "me/toy")
    assert code == 0
    assert (hub.repositories["me/toy"].resolve("main")) in out
    code, out, err = world().latent("pull", "me/toy", "--to", tmp_path / "copy")
    assert code == 0, err
    assert {path.name for path in (tmp_path / "copy").iterdir()} == set(hub.files("me/toy"))
    assert not any(path.is_symlink() for path in (tmp_path / "copy").iterdir())
    code, _, err = world().latent("pull", "me/toy", "--to", tmp_path / "copy")
    assert (code, "exists already" in err) == (1, True)


def test_dtype_and_device_are_those_asked_for(published, world):
    code = "import torch\nfrom latent.core import AutoLatent\n"
    code += "model = AutoLatent.from_pretrained('me/toy', dtype=torch.float64, device='auto')\n"
    code += "value = [str(p.dtype) for p in model.parameters()], model.training"
    assert world().python(code) == [["torch.float64"] * 2, False]


def test_offline_uses_the_cache_and_names_what_is_missing(published, world):
    world().latent("pull", "me/toy")
    offline = world(HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert offline.python("from latent.core import AutoLatent\nvalue = bool(AutoLatent.from_pretrained('me/toy'))")
    fresh = world("empty", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    code, out, err = fresh.latent("pull", "me/toy")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "Error: config.json of me/toy is not in the cache, and the Hub is not asked or cannot be reached.",
        "If a folder is meant, look at its name. Where there is a network, run: latent pull me/toy",
    ]
    code, _, err = fresh.latent("push", "nowhere", "me/toy")
    assert (code, "config.json is missing" in err) == (1, True)


def test_offline_names_the_weights_that_are_missing(published, world, hub):
    client = world("half")
    client.python("from huggingface_hub import hf_hub_download\nhf_hub_download('me/toy', 'config.json')")
    found = client.ask(
        "from latent.core import AutoLatent\nAutoLatent.from_pretrained('me/toy', local_files_only=True)"
    )
    assert found["error"][0] == "HubError"
    assert found["message"].startswith("model.safetensors of me/toy is not in the cache")
    assert "latent pull me/toy" in found["hint"]


def test_a_dead_hub_serves_what_is_cached(published, world):
    world().latent("pull", "me/toy")
    dead = world(HF_ENDPOINT="http://127.0.0.1:9")
    answer = dead.ask("from latent.core import AutoLatent\nvalue = bool(AutoLatent.from_pretrained('me/toy'))")
    assert answer.get("value") is True, answer
    code, _, err = dead.latent("pull", "me/never")
    assert (code, len(err.splitlines())) == (1, 3)
    assert "config.json of me/never is not in the cache" in err


def test_revisions_tags_and_pull_requests(published, world, hub, run):
    first = hub.repositories["me/toy"].resolve("main")
    client = world()
    client.python("from huggingface_hub import HfApi\nHfApi().create_tag('me/toy', tag='v1')")
    code, out, err = client.latent("push", run, "me/toy", "--pr", "--license", "cc0-1.0")
    assert code == 0, err
    assert "/me/toy/discussions/1" in out
    assert hub.repositories["me/toy"].resolve("main") == first
    assert front(hub.files("me/toy", "refs/pr/1")["README.md"].decode())["license"] == "cc0-1.0"
    code, out, err = client.latent("push", run, "me/toy", "--revision", "next", "--license", "bsd-3-clause")
    assert code == 0, err
    assert front(hub.files("me/toy", "next")["README.md"].decode())["license"] == "bsd-3-clause"
    for revision in ("v1", "next", "refs/pr/1", first):
        code, out, err = client.latent("pull", "me/toy", "--revision", revision)
        assert code == 0, err
        assert out.strip().endswith(hub.repositories["me/toy"].resolve(revision))
    code, _, err = client.latent("pull", "me/toy", "--revision", "v9")
    assert (code, "has no revision 'v9'" in err) == (1, True)


def test_private_repositories_and_tokens(world, hub, run):
    code, _, err = world().latent("push", run, "me/secret", "--private")
    assert code == 0, err
    assert hub.repositories["me/secret"].private
    nobody = world("nobody", token=None)
    code, _, err = nobody.latent("pull", "me/secret")
    assert (code, "no repository me/secret" in err, "HF_TOKEN" in err) == (1, True, True)
    code, _, err = nobody.latent("pull", "me/secret", "--token", "hf_wrong")
    assert code == 1
    assert "hf_wrong" not in err
    assert len(err.splitlines()) == 2
    code, _, err = nobody.latent("pull", "me/secret", "--token", "hf_loopback")
    assert code == 0, err
    code, _, err = nobody.latent("push", run, "me/toy2", "--token", "hf_other")
    assert (code, "no right" in err) == (1, True)
    assert "me/toy2" not in hub.repositories


def test_a_public_repository_does_not_pass_for_private(published, world, hub, run):
    before = len(hub.repositories["me/toy"].titles)
    code, _, err = world().latent("push", run, "me/toy", "--private")
    assert (code, "exists and is public" in err) == (1, True)
    assert len(hub.repositories["me/toy"].titles) == before


def test_hand_edited_cards_survive(world, hub, run):
    client = world()
    client.latent("push", run, "me/edited", "--license", "mit")
    files = hub.files("me/edited")
    card = files["README.md"].decode()
    card = card.replace("library_name: latent", "language: en\nlibrary_name: latent").replace(
        "- toy\n", "- toy\n- mine\n"
    )
    card = card.replace("# toy/regression\n", "# My model\n\nIntroduced by hand.\n").replace("0000.00000", "gone")
    hub.place("me/edited", {**files, "README.md": (card + "\nWritten below.\n").encode()})
    code, _, err = client.latent("push", run, "me/edited")
    assert code == 0, err
    again = hub.files("me/edited")["README.md"].decode()
    assert front(again)["language"] == "en"
    assert front(again)["license"] == "mit"
    assert front(again)["tags"] == ["latent", "toy", "mine", "regression"]
    assert len(front(again)["model-index"]) == 1
    assert "# My model\n\nIntroduced by hand.\n" in again
    assert again.endswith("\nWritten below.\n")
    assert "arXiv:0000.00000" in again
    assert "gone" not in again


def test_files_of_an_older_model_are_deleted_and_others_stay(world, hub, run):
    old = {"model-00001-of-00002.safetensors": b"x", "model.safetensors.index.json": b"{}", "notes.txt": b"mine"}
    hub.place("me/older", {**old, "README.md": b"No header, only words.\n"})
    code, _, err = world().latent("push", run, "me/older")
    assert code == 0, err
    files = hub.files("me/older")
    assert set(files) - {"README.md", "config.json", "results.json", "run.json"} == {"model.safetensors", "notes.txt"}
    assert "No header, only words.\n\n<!-- latent" in files["README.md"].decode()
    assert front(files["README.md"].decode())["library_name"] == "latent"


def test_a_dry_run_sends_nothing(world, hub, run):
    before = len(hub.requests)
    code, out, err = world().latent("push", run / "model", "me/never", "--dry-run", "--license", "mit")
    assert code == 0, err
    assert "Nothing was sent" in out
    assert "model.safetensors" in out
    assert len(hub.requests) == before
    assert "me/never" not in hub.repositories


@pytest.mark.parametrize("name", ["toy", "a/b/c", "../x/y", "me/..", "-/x", "me/a--b", "me/a\n"])
def test_what_is_no_repository_is_not_asked_for(world, hub, name):
    before = len(hub.requests)
    answer = world().ask(f"from latent.core.hub.transfer import pull\npull({name!r})")
    assert answer["error"][0] == "HubError"
    assert "not the name of a repository" in answer["message"]
    assert len(hub.requests) == before


def test_a_push_in_between_is_not_overwritten(published, world, hub, run):
    code = f"""
from pathlib import Path
from latent.core.hub import transfer
whole = transfer._existing_card
def slow(api, repo, commit):
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id=repo)
    return whole(api, repo, commit)
transfer._existing_card = slow
try:
    transfer.push(Path({str(run)!r}), "me/toy", licence="isc")
finally:
    transfer._existing_card = whole
"""
    answer = world().ask(code)
    assert answer["error"][0] == "HubError", answer
    assert "changed me/toy at the same time" in answer["message"]
    assert "theirs.txt" in hub.files("me/toy")


def test_regular_uploads_need_no_special_client(toy_world, start_client, run, tmp_path):
    """The server of `python -m latent.core.testing.hub`, with a client as users have it."""
    folder, environment = toy_world
    with LoopbackHub() as hub:
        variables = {**environment, **hub.environment(tmp_path / "home")}
        del variables["HF_HUB_DISABLE_XET"]
        client = start_client(variables, folder)
        code, _, err = client.latent("push", run, "me/toy")
        assert code == 0, err
        assert client.python(SAME.format(one="me/toy", two=str(run / "model")))
        assert not any("lfs" in request for request in hub.requests)


def test_shards_are_pushed_pulled_and_loaded(world, hub, run, tmp_path):
    code = f"""
from pathlib import Path
from latent.core.hub import transfer, weights
whole = transfer.save_model
transfer.save_model = lambda model, folder, method: whole(model, folder, method=method, shard_bytes=8)
try:
    transfer.push(Path({str(run)!r}), "me/shards")
finally:
    transfer.save_model = whole
value = str(transfer.pull("me/shards", to=Path({str(tmp_path / "shards")!r})))
"""
    folder = world().python(code)
    assert {name for name in hub.files("me/shards") if "safetensors" in name} == {
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"
    }  # fmt: skip
    assert world().python(SAME.format(one="me/shards", two=str(run / "model")))
    assert folder == str(tmp_path / "shards")
