"""A data folder is somebody for ever, and a new disk is somebody else."""

from __future__ import annotations

import pytest

from chaos.sim.disk import PowerCut, SimDisk
from cluster.consensus.identity import WrongFolder, load_or_create
from wal.checks import Corrupt


def identity(disk: SimDisk, node_id: str = "a", cluster_id: str = "test") -> str:
    return load_or_create(disk, "/node", cluster_id=cluster_id, node_id=node_id).incarnation


def test_it_stays_and_another_disk_has_another() -> None:
    disk = SimDisk(seed=1)
    assert identity(disk) == identity(disk) != identity(SimDisk(seed=2))


@pytest.mark.parametrize("effects", range(12))
def test_power_cut_after_every_effect(effects: int) -> None:
    disk = SimDisk(seed=effects)
    disk.cut_after = effects
    known = None
    try:
        known = identity(disk)
    except PowerCut:
        pass
    disk.cut_after = None
    disk.power_cut()
    disk.restart()
    assert known is None or identity(disk) == known
    assert identity(disk) == identity(disk)


def test_a_folder_of_another_node_or_cluster_is_refused() -> None:
    disk = SimDisk(seed=1)
    identity(disk)
    with pytest.raises(WrongFolder, match="node a of cluster test, this is node b"):
        identity(disk, node_id="b")
    with pytest.raises(WrongFolder, match="cluster other"):
        identity(disk, cluster_id="other")


def test_a_rotten_byte_is_found() -> None:
    disk = SimDisk(seed=1)
    identity(disk)
    disk.flip("/node/identity", 20)
    with pytest.raises(Corrupt, match="/node/identity"):
        identity(disk)
