"""What dead consumers held comes to their successor, once, and stays there."""

from buffers import fill
from structlog.testing import capture_logs

from pronk.transport import buffer
from pronk.transport.buffer import BufferState, Consumer, buffer_state


def test_what_the_dead_left_is_claimed_and_what_the_living_hold_is_not(client, keys):
    fill(client, keys, 6)
    dead, living = Consumer(client, keys, "dead"), Consumer(client, keys, "living")
    left = [entry.id for entry in dead.read(2, 0)]
    held = [entry.id for entry in living.read(2, 0)]
    heir = Consumer(client, keys, "heir")
    assert sorted(heir.names()) == ["dead", "living"]
    heir.claim_from(["dead", "never seen", "heir"])
    claimed = heir.read(8, 0)
    assert [entry.id for entry in claimed] == left
    assert [entry.deliveries for entry in claimed] == [2, 2]
    assert heir.claimed == 2
    fresh = heir.read(8, 0)
    assert [entry.deliveries for entry in fresh] == [1, 1]
    assert not {entry.id for entry in fresh} & {*left, *held}
    assert sorted(heir.names()) == ["heir", "living"]
    assert living.ack(held) == 2


def test_a_claim_of_many_entries_is_whole(client, keys):
    fill(client, keys, 300)
    Consumer(client, keys, "dead").read(300, 0)
    heir = Consumer(client, keys, "heir")
    heir.claim_from(["dead"])
    seen = [entry.id for _ in range(40) for entry in heir.read(8, 0)]
    assert len(seen) == len(set(seen)) == 300
    assert heir.read(8, 0) == []


def test_what_a_dead_learner_takes_on_waking_is_claimed_too(client, keys, monkeypatch):
    heir, dead = Consumer(client, keys, "heir"), Consumer(client, keys, "dead")
    heir.claim_from(["dead"])
    assert heir.read(8, 0) == []
    fill(client, keys, 2)
    assert len(dead.read(8, 0)) == 2
    assert heir.read(8, 0) == []
    monkeypatch.setattr(heir, "_next_claim", 0.0)  # ten seconds later
    assert len(heir.read(8, 0)) == 2


def test_what_a_successor_claimed_is_not_acknowledged_by_who_was_thought_dead(client, keys):
    fill(client, keys, 3)
    woken, heir = Consumer(client, keys, "woken"), Consumer(client, keys, "heir")
    ids = [entry.id for entry in woken.read(3, 0)]
    assert woken.ack(ids[:1]) == 1
    heir.claim_from(["woken"])
    assert [entry.id for entry in heir.read(8, 0)] == ids[1:]
    assert woken.ack(ids) == 0
    assert buffer_state(client, keys) == BufferState(2, 200)
    assert heir.ack(ids) == 2
    assert buffer_state(client, keys) == BufferState(0, 0)


def test_what_a_successor_claimed_is_not_taken_back(client, keys, monkeypatch):
    """Who was thought dead stood still between asking what it holds and reading that again."""
    fill(client, keys, 2)
    Consumer(client, keys, "woken").read(2, 0)
    woken, heir = Consumer(client, keys, "woken"), Consumer(client, keys, "heir")
    fetch = woken._fetch

    def stand_still(times_delivered):
        heir.claim_from(["woken"])
        assert len(heir.read(8, 0)) == 2
        monkeypatch.setattr(woken, "_fetch", fetch)
        return fetch(times_delivered)

    monkeypatch.setattr(woken, "_fetch", stand_still)
    assert woken.read(8, 0) == []
    assert heir.ack([entry["message_id"] for entry in pending(client, keys, "heir")]) == 2


def test_an_emptied_buffer_acknowledges_nothing(client, keys):
    fill(client, keys, 2)
    reader = Consumer(client, keys, "learner")
    ids = [entry.id for entry in reader.read(2, 0)]
    client.delete(keys.stream, keys.sizes)
    assert reader.ack(ids) == 0


def pending(client, keys, name):
    return client.xpending_range(keys.stream, "learner", "-", "+", 100, name)


def test_an_entry_delivered_three_times_is_dropped_and_counted(client, keys):
    fill(client, keys, 2)
    with capture_logs() as logs:
        for name, before in (("a", None), ("b", "a"), ("c", "b"), ("d", "c")):
            reader = Consumer(client, keys, name)
            reader.claim_from([before] if before else [])
            entries = reader.read(8, 0)
            if name == "b":  # one of the two is good
                assert reader.ack([entries[0].id]) == 1
            if name == "c":
                assert [entry.deliveries for entry in entries] == [buffer.MAX_DELIVERIES]
                assert reader.dropped == 0
    assert entries == []
    assert reader.dropped == 1
    assert buffer_state(client, keys) == BufferState(0, 0)
    assert [log["entries"] for log in logs if log["log_level"] == "warning"] == [1]
