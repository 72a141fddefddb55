"""downstream.toml can be followed: every recipe is whole, and every package of examples/plugins has one."""

import tomllib

import pytest


@pytest.fixture(scope="module")
def recipes(root):
    return tomllib.loads((root / "downstream.toml").read_text(encoding="utf-8"))


def test_recipes_are_lists_of_commands(recipes):
    for name, recipe in recipes.items():
        assert {"install", "test"} <= set(recipe) <= {"before", "install", "test"}, name
        for lines in recipe.values():
            assert lines, name
            assert all(isinstance(word, str) for line in lines for word in line), name


def test_every_example_package_has_a_recipe(recipes, root):
    packages = [path.parent.name for path in (root / "examples" / "plugins").glob("*/pyproject.toml")]
    assert packages
    for name in packages:
        assert any(f"./examples/plugins/{name}" in line[0] for line in recipes[name]["install"]), name


def test_the_template_is_among_them(recipes, root):
    assert recipes["template"]["before"][0][:2] == ["latent", "new"]
    assert (root / "templates" / "latent-plugin" / "copier.yml").is_file()


def test_example_packages_are_third_parties(root):
    """Their own top-level package, their own family, the licence of ours."""
    for path in (root / "examples" / "plugins").glob("*/pyproject.toml"):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        assert not project["name"].startswith("latent")
        (module,) = project["entry-points"]["latent.plugins.v1"].values()
        assert not module.startswith("latent.")
        assert (path.parent / "LICENSE").read_bytes() == (root / "LICENSE").read_bytes()
