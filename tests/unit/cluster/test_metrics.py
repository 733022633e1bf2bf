"""Metrics: names, windows, histograms, and that a typo is noticed."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.metrics import COUNTERS, GAUGES, Histogram, Metrics, Window


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def values(metrics):
    """Sample name with labels -> value."""
    text = metrics.render()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def metrics(clock):
    return Metrics(env="prod", cluster="c", clock_s=clock, memory_bytes=lambda: 42)


def test_names_of_the_contract_are_there_from_the_start(metrics):
    found = values(metrics)
    for status in ("ok", "error"):
        for bound in [0.1 * 2**n for n in range(8)]:
            assert ("sync_snapshot_latency_seconds_bucket", (("le", str(round(bound, 1))), ("status", status))) in found
    assert found[("sync_rollback_success_rate", (("cluster", "c"), ("env", "prod")))] == 1
    assert found[("sync_memory_bytes_used", (("role", "follower"),))] == 42
    assert found[("raft_snap_save_failures_total", ())] == 0
    assert found[("snapshot_send_rate", ())] == 0
    for name in GAUGES:
        assert found[(f"lastgood_{name}", ())] == 0
    for name in COUNTERS:
        assert found[(f"lastgood_{name}_total", ())] == 0


def test_every_name_of_ours_has_the_prefix(metrics):
    golden = ("sync_", "raft_snap_save_failures", "snapshot_send_rate", "process_")
    for name, _ in values(metrics):
        assert name.startswith(("lastgood_", *golden)), name


def test_rollback_rate_is_of_the_last_five_minutes(metrics, clock):
    metrics.rollback_done(0.01, ok=True)
    metrics.rollback_done(0.01, ok=False)
    assert metrics.rollback_success_rate == 0.5
    clock.now += 299
    assert metrics.rollback_success_rate == 0.5
    metrics.rollback_done(0.01, ok=True)
    clock.now += 1
    assert metrics.rollback_success_rate == 1
    clock.now += 1000
    assert metrics.rollback_success_rate == 1


def test_what_transfers_count_is_fetched_when_asked(metrics):
    def sample(asked):
        asked.snapshot_send_rate = 5_000_000.0
        asked.transfer_bytes["out"] = 50_000_000

    metrics.sample_with(sample)
    found = values(metrics)
    assert found[("snapshot_send_rate", ())] == 5_000_000
    assert found[("lastgood_transfer_bytes_total", (("direction", "out"),))] == 50_000_000


def test_windows_are_bounded(clock):
    window = Window(10, clock)
    for _ in range(1000):
        window.add(1, 2)
        clock.now += 0.7
    assert len(window._entries) <= 11
    assert window.sums()[1] == 2 * window.sums()[0]


def test_a_histogram_counts_each_value_once():
    histogram = Histogram((1, 2, 4))
    for value in (0.5, 1, 1.5, 4, 5):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 3), ("4.0", 4), ("+Inf", 5)]
    assert histogram.total == 12


def test_requests_are_counted_by_operation_and_status(metrics):
    metrics.count_request("putData", 200)
    metrics.count_request("putData", 200)
    metrics.count_request("putData", 409)
    found = values(metrics)
    assert found[("lastgood_requests_total", (("op", "putData"), ("status", "200")))] == 2
    assert found[("lastgood_requests_total", (("op", "putData"), ("status", "409")))] == 1


def test_samplers_run_before_each_collection(metrics):
    seen = iter([7, 8])
    metrics.sample_with(lambda m: m.set("applied_index", next(seen)))
    assert values(metrics)[("lastgood_applied_index", ())] == 7
    assert values(metrics)[("lastgood_applied_index", ())] == 8


def test_a_typo_is_noticed(metrics):
    with pytest.raises(KeyError):
        metrics.set("aplied_index", 1)
    with pytest.raises(KeyError):
        metrics.add("elektions")
