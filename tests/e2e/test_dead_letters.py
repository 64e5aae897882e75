"""Dead letters listed, described, corrected and sent again; in the end the oracle is right."""

from __future__ import annotations

import json
import time

from support.payments import KEYED_VIEWS, START_MS, generate
from support.repo import RunningRepo
from support.served import assert_served

from streamsvc.store.client import connect
from streamsvc.store.markers import read_markers

FIX = """
def mend(value):
    if b"beyond repair" in value:
        return None
    return value.replace(b"'", b'"')
"""


def payment(card, at, amount=5.0):
    return {"payment_id": f"{card}-{at}", "card_id": card, "shop_id": 1, "amount": amount,
            "country": "NL", "paid_at": at}  # fmt: skip


def letters(repo, *words, code=0):
    said = repo.streamsvc("dead-letters", *words, "--json", code=code)
    return json.loads(said) if code == 0 else said


def reasons(repo):
    [found] = letters(repo, "list", repo.topic)
    return {reason: each["letters"] for reason, each in found["reasons"].items()}


def await_reasons(repo, wanted):
    repo.wait_until(lambda: reasons(repo) == wanted)


def await_read_until(repo, now_ms):
    """Markers go on telling that nothing is unread, though a transaction's marker came last."""
    client = connect(repo.settings)
    deadline = time.monotonic() + 300
    for view in repo.plan.views:
        groups = range(6) if view.shuffled else range(4)
        while any(
            m is None or m.read_until_ms < now_ms
            for m in read_markers(client, repo.project, view.name, list(groups))
        ):
            repo.assert_workers_alive()
            assert time.monotonic() < deadline, view.name


def test_dead_letters_come_back(stack, tmp_path):
    with RunningRepo(stack, tmp_path, "payments_keyed") as repo:
        repo.create_topic(4)
        repo.apply()
        repo.start_worker("w")
        good = [r for r in generate(300, seed=1, keyed=True).records if r[1] and r[0] != b"bad"]
        repo.produce(good, partitioner="murmur2_random")
        at = START_MS + 300 * 400
        lost = [json.dumps(payment("c1", at + i)).encode() for i in range(8)]
        for partition in range(4):  # three of four are in the wrong one
            repo.produce([(b"c1", lost[partition])], partition)
        quoted = [value.replace(b'"', b"'") for value in lost[4:7]]
        repo.produce([(b"c1", quoted[0]), (b"c1", quoted[1]), (b"c1", b"beyond repair")], 0)
        repo.wait_until_applied()
        rest = {k: v for k, v in reasons(repo).items() if k != "late"}
        assert rest == {"wrong_key": 3, "bad_json": 3}

        [listed] = letters(repo, "list", repo.topic, "-n", "100")
        one = next(r for r in listed["records"] if r["reason"] == "bad_json")
        shown = letters(repo, "describe", one["source"])
        assert shown["key"] == "c1"
        assert shown["value"].startswith("{'payment_id'")
        assert letters(repo, "describe", one["dead_letter"]) == shown
        assert "no dead letter at" in letters(repo, "describe", f"{repo.topic}/0/99999", code=2)

        dry = letters(repo, "replay", repo.topic, "--dry-run")
        assert dry["sent"] == []
        assert dry["topics"][repo.topic]["chosen"] == rest

        sent = letters(repo, "replay", repo.topic, "--reason", "wrong_key", "--yes")
        assert len(sent["sent"]) == rest["wrong_key"]
        assert all(each["to"].startswith(f"{repo.topic}/") for each in sent["sent"])
        await_read_until(repo, time.time_ns() // 1_000_000)
        again = letters(repo, "replay", repo.topic, "--reason", "wrong_key", "--yes")
        assert again["sent"] == [], "each goes once"
        shown = letters(repo, "describe", sent["sent"][0]["from"])
        assert shown["sent_to"] == sent["sent"][0]["to"]

        # Unchanged they are refused again, and then no more by themselves.
        assert len(letters(repo, "replay", one["source"], "--yes")["sent"]) == 1
        await_reasons(repo, {**reasons(repo), "bad_json": 3})
        [listed] = letters(repo, "list", repo.topic, "-n", "100")
        [back] = [r for r in listed["records"] if r["replays"] == 1 and r["reason"] == "bad_json"]
        kept = letters(repo, "replay", repo.topic, "--reason", "bad_json", "--dry-run")
        assert kept["topics"][repo.topic]["chosen"] == {"bad_json": 2}
        assert sum(kept["topics"][repo.topic]["left_out"].values()) == 1

        value = tmp_path / "value.json"
        value.write_bytes(lost[7])
        single = letters(repo, "replay", back["source"], "--value", str(value), "--yes")
        assert len(single["sent"]) == 1
        (repo.path / "fix.py").write_text(FIX)
        mended = letters(
            repo, "replay", repo.topic, "--reason", "bad_json", "--correct", "fix.py:mend", "--yes"
        )
        assert len(mended["sent"]) == 1, "the other one is beyond repair"

        truth = assert_served(repo, KEYED_VIEWS)
        ids = {e["payment_id"] for e in truth.events}
        for value in (*lost[:4], lost[5], lost[7]):
            assert json.loads(value)["payment_id"] in ids
        repo.assert_workers_alive()
