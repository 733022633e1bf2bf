"""A node that comes back from its checkpoint and its log is the node that never went away."""

from __future__ import annotations

import pytest

from tests.unit.node.durable import DurableNode, Story, everything


def same(found: DurableNode, expected: DurableNode) -> None:
    left, right = everything(found), everything(expected)
    for part in left:
        assert left[part] == right[part], part


@pytest.mark.parametrize("seed", range(12))
def test_recovers_what_a_fresh_replay_gives(tmp_path, seed):
    """Checkpoints at random moments, crashes at random moments; each life goes on where the last one stopped."""
    story, log = Story(seed), []
    node = DurableNode(str(tmp_path / "n"), log)
    for step in range(150):
        story.step(node)
        if story.rng.random() < 0.08:
            assert node.checkpoint()
        if story.rng.random() < 0.05:
            node.close()
            node = DurableNode(str(tmp_path / "n"), log)
            assert node.replayed == len(log) - (node.storage.base.index if node.storage.base else 0)
        if step % 50 == 49:
            same(node, DurableNode(str(tmp_path / f"fresh{step}"), list(log)))
    node.close()
