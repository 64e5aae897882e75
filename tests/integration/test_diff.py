"""`streamsvc diff` says beforehand what workers will do, and they do it."""

from __future__ import annotations

import json

from support.payments import generate
from support.repo import RunningRepo

VIEWS = {
    "card_abroad",
    "card_habits",
    "card_in_shop",
    "card_newest",
    "card_spend",
    "shop_sales",
}


def changes(repo):
    """action -> views."""
    found = {}
    for change in json.loads(repo.streamsvc("diff", "--json")):
        assert bool(change["why"]) == (change["action"] != "keep")
        found.setdefault(change["action"], set()).add(change["view"])
    return found


def edit(repo, file, before, after):
    path = repo.path / file
    text = path.read_text()
    assert text.count(before) == 1, text.count(before)
    path.write_text(text.replace(before, after))


def test_views_are_new_kept_rebuilt_and_dropped(stack, tmp_path):
    with RunningRepo(stack, tmp_path, "payments") as repo:
        assert changes(repo) == {"new": VIEWS}  # nothing applied, no topic
        repo.create_topic(2)
        repo.apply()
        assert changes(repo) == {"new": VIEWS}
        repo.produce(generate(200, seed=3).records)
        repo.start_worker("one")
        repo.wait_until_applied()
        assert changes(repo) == {"keep": VIEWS}

        edit(repo, "features.py", '"var", DAY)', '"var", WEEK, HOUR)')
        edit(repo, "features.py", 'name="var_amount_86400s"', 'name="var_amount_604800s"')
        edit(repo, "features.py", 'events["country"] != "NL"', 'events["country"] != "BE"')
        edit(
            repo,
            "services.py",
            "card_in_shop, card_spend, shop_sales\n",
            "card_spend, shop_sales\n",
        )
        edit(repo, "services.py", "card_in_shop, ", "")
        path = repo.path / "features.py"
        before, rest = path.read_text().split("card_in_shop = ")
        path.write_text(before + rest[rest.index("@stream_feature_view") :])
        wanted = {
            "keep": VIEWS - {"card_in_shop", "shop_sales", "card_abroad"},
            "rebuild": {"shop_sales", "card_abroad"},
            "drop": {"card_in_shop"},
        }
        assert changes(repo) == wanted
        told = repo.streamsvc("diff")
        assert "rebuild  shop_sales    its definition changed" in told
        assert "drop     card_in_shop  no longer defined" in told

        assert repo.stop_worker("one") == 0
        repo.apply()
        repo.start_worker("two")
        repo.wait_until(lambda: changes(repo) == {"keep": VIEWS - {"card_in_shop"}})
        assert claimed(repo.log_of("one")) == VIEWS
        assert claimed(repo.log_of("two")) == wanted["rebuild"]


def claimed(log):
    """The views that a worker began anew."""
    lines = [line for line in log.splitlines() if "incarnation_claimed" in line]
    return {view for view in VIEWS if any(view in line for line in lines)}


def test_what_does_not_load_is_said(stack, tmp_path):
    with RunningRepo(stack, tmp_path, "payments") as repo:
        (repo.path / "broken.py").write_text("import nowhere\n")
        said = repo.streamsvc("diff", code=2)
        assert "do not load" in said
        assert "nowhere" in said
