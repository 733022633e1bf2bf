"""Reads the journal of a stopped node without changing anything, and names every damage instead of stopping at one."""

from __future__ import annotations

from dataclasses import dataclass, field

from wal.checks import Corrupt
from wal.disk import Disk, File
from wal.frame import HEAD_BYTES, Purpose, SegmentHead, read_payload, unpack_segment_head
from wal.segments import SUFFIX, SegmentScan, TornTail

HEADER_READ_BYTES = 4096


@dataclass
class LogReport:
    """What was read of one log. A torn tail is no damage: it was never acknowledged, and the next start cuts it."""

    segments: int = 0
    frames: int = 0
    nbytes: int = 0
    torn: TornTail | None = None
    damages: list[Corrupt] = field(default_factory=list)


def inspect_log(disk: Disk, folder: str, purpose: Purpose) -> LogReport:
    """Reads every frame of the segments in `folder`. A missing folder reads as an empty log."""
    report = LogReport()
    if not disk.exists(folder):
        return report
    names = [name for name in disk.listdir(folder) if name.endswith(SUFFIX)]
    opened: list[tuple[File, SegmentHead | None]] = [_open(disk, f"{folder}/{name}", purpose, report) for name in names]
    expected_id: int | None = None
    for at, (file, head) in enumerate(opened):
        found_id = int(names[at][: -len(SUFFIX)], 16)
        if expected_id is not None and found_id != expected_id and purpose is Purpose.JOURNAL:
            path = f"{folder}/{expected_id:016x}{SUFFIX}"
            report.damages.append(Corrupt(path, 0, "a segment", "no file"))
        expected_id = found_id + 1
        if head is not None:
            following = opened[at + 1][1] if at + 1 < len(opened) else None
            _read_segment(file, head, following, last=at == len(opened) - 1, report=report)
        file.close()
    return report


def _open(disk: Disk, path: str, purpose: Purpose, report: LogReport) -> tuple[File, SegmentHead | None]:
    report.segments += 1
    file = disk.open(path)
    try:
        return file, unpack_segment_head(file.pread(HEADER_READ_BYTES, 0), path, purpose)
    except Corrupt as damage:
        report.damages.append(damage)
        return file, None


def _read_segment(
    file: File, head: SegmentHead, following: SegmentHead | None, *, last: bool, report: LogReport
) -> None:
    """Frames up to the end; behind a damaged one it goes on at the next whole one."""
    scan = SegmentScan(file, head)
    while True:
        for frame in scan:
            report.frames += 1
            report.nbytes += HEAD_BYTES + len(frame.payload)
        if head.purpose == Purpose.UNDO:
            return  # what lives in it, and so where it must not end, is the checkpoint's knowledge
        if last:
            try:
                report.torn = scan.judge_end()
                return
            except Corrupt as damage:
                report.damages.append(damage)
        elif following is None or scan.next_seq < following.first_seq:
            report.damages.append(_named(scan))
        else:
            return
        if not _skip(scan):
            return


def _named(scan: SegmentScan) -> Corrupt:
    """What is wrong with the frame at the scan's end."""
    try:
        read_payload(scan.bytes[scan.end :], scan.path, scan.end, scan.head.salt)
    except Corrupt as damage:
        return damage
    return Corrupt(scan.path, scan.end, f"frame {scan.next_seq}", "a frame with another number")


def _skip(scan: SegmentScan) -> bool:
    """Moves the scan to the next whole frame behind the damage, if there is one."""
    for offset, head in scan.heads_from(scan.end + 1):
        try:
            read_payload(scan.bytes[offset:], scan.path, offset, scan.head.salt)
        except Corrupt:
            continue
        if head.seq > scan.next_seq:
            scan.end, scan.next_seq = offset, head.seq
            return True
    return False
