"""Adding columns to a Parquet file without writing the others again: verdicts are small, measurements are not.

A Parquet file is the bytes of its column chunks, one after the other, and a footer that says where each is. So the new
file has the old one's chunks, copied as they are, then the new columns' chunks, then a footer that names both. pyarrow
writes the new columns and every description; only the positions are combined here. The footer is in Thrift's compact
protocol (apache/thrift, doc/specs/thrift-compact-protocol.md; its fields: apache/parquet-format, parquet.thrift).
"""

import hashlib
import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import BadManifest
from tasks.manifest import Lineage, ManifestRef, digest_table, make_metadata, publish

MAGIC = b"PAR1"

BLOCK = 1 << 24
"""Bytes copied at a time."""

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12
"""Types of the compact protocol; maps do not occur in a footer."""

ROWS, GROUPS = 3, 4
"""Fields of FileMetaData."""

COLUMNS, BYTES, COMPRESSED = 1, 2, 6
"""Fields of RowGroup."""

PATH, UNPACKED_SIZE, SIZE, DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE = 3, 6, 7, 9, 10, 11
"""Fields of ColumnMetaData, which is field 3 of ColumnChunk."""

Struct = dict[int, tuple[int, Any]]
"""A Thrift structure: type and value by the fields' numbers; the value of a list is (type, values)."""


def extend_manifest(
    target: Path, source: Path, digest: str, added: pa.Table, lineage: Lineage, keep: pa.Schema
) -> ManifestRef:
    """Write `target`: the columns `keep` of the manifest `source`, whose rows have `digest`, and the columns of
    `added`.

    The digest of the result is made from both digests. `source` and `target` may be the same file. Raises BadManifest
    when the tables differ in length.
    """
    whole = hashlib.sha256(f"{digest}{digest_table(added)}".encode()).hexdigest()
    schema = pa.schema([*keep, *added.schema], metadata=make_metadata(lineage, whole))
    graft(target, source, added, schema)
    return ManifestRef(path=target, digest=whole, rows=added.num_rows)


def graft(target: Path, source: Path, added: pa.Table, schema: pa.Schema) -> None:
    """Write `target` with the columns of `schema`: the last ones from `added`, the others' bytes from `source`."""
    with source.open("rb") as file:
        old = read_footer(file)
        names = {name.encode() for name in schema.names[: -added.num_columns]}
        rows = [_get_number(group, ROWS) for group in _get_groups(old)]
        if sum(rows) != added.num_rows:
            raise BadManifest(f"{source}: has {sum(rows)} rows, but there are {added.num_rows} verdicts for them.")
        for group in _get_groups(old):
            kept = [chunk for chunk in _get_chunks(group) if _get_facts(chunk)[PATH][1][1][0] in names]
            group[COLUMNS] = (LIST, (STRUCT, kept))
        end = max((_find_end(chunk) for group in _get_groups(old) for chunk in _get_chunks(group)), default=len(MAGIC))
        new_bytes = _write_bytes(added, rows)
        new = read_footer(io.BytesIO(new_bytes))
        for group, more in zip(_get_groups(old), _get_groups(new), strict=True):
            _join(group, more, end - len(MAGIC))
        footer = read_footer(io.BytesIO(_write_bytes(schema.empty_table(), [])))
        footer[ROWS], footer[GROUPS] = old[ROWS], old[GROUPS]
        with publish(target) as aside, aside.open("wb") as sink:
            _copy(file, sink, end)
            sink.write(new_bytes[len(MAGIC) : _find_footer(new_bytes)])
            sink.write(append_length(encode_struct(footer)) + MAGIC)


def read_footer(file: BinaryIO) -> Struct:
    """Read the FileMetaData at the end of a Parquet file."""
    file.seek(-8, io.SEEK_END)
    length, magic = struct.unpack("<I4s", file.read(8))
    if magic != MAGIC:
        raise BadManifest(f"{getattr(file, 'name', 'A table')}: not a complete Parquet file. Delete it and run again.")
    file.seek(-8 - length, io.SEEK_END)
    return _Reader(file.read(length)).struct()


def append_length(footer: bytes) -> bytes:
    """Return a footer followed by its length, as it is at the end of the file."""
    return footer + struct.pack("<I", len(footer))


def _write_bytes(table: pa.Table, rows: list[int]) -> bytes:
    """Return a Parquet file of `table` in groups of these numbers of rows, as bytes."""
    sink, start = io.BytesIO(), 0
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        for count in rows:
            writer.write_table(table.slice(start, count), row_group_size=max(count, 1))
            start += count
    return sink.getvalue()


def _find_footer(file: bytes) -> int:
    return len(file) - 8 - struct.unpack("<I", file[-8:-4])[0]


def _copy(file: BinaryIO, sink: BinaryIO, count: int) -> None:
    file.seek(0)
    while count > 0 and (block := file.read(min(BLOCK, count))):
        count -= sink.write(block)


def _join(group: Struct, more: Struct, shift: int) -> None:
    """Add the columns of the row group `more`, whose bytes are now `shift` further on, to `group`."""
    for chunk in _get_chunks(more):
        facts = _get_facts(chunk)
        for place in {DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE} & set(facts):
            facts[place] = (I64, facts[place][1] + shift)
    chunks = [*_get_chunks(group), *_get_chunks(more)]
    for chunk in chunks:
        # Page indices and Bloom filters only speed up reading, and may be where nothing is copied from.
        for number in [number for number in chunk if number > PATH]:
            del chunk[number]
        for number in {14, 15} & set(_get_facts(chunk)):
            del _get_facts(chunk)[number]
    group[COLUMNS] = (LIST, (STRUCT, chunks))
    group[BYTES] = (I64, sum(_get_number(_get_facts(chunk), UNPACKED_SIZE) for chunk in chunks))
    group[COMPRESSED] = (I64, sum(_get_number(_get_facts(chunk), SIZE) for chunk in chunks))


def _get_groups(footer: Struct) -> list[Struct]:
    return footer[GROUPS][1][1]


def _get_chunks(group: Struct) -> list[Struct]:
    return group[COLUMNS][1][1]


def _get_facts(chunk: Struct) -> Struct:
    return chunk[3][1]


def _get_number(of: Struct, field: int) -> int:
    return of[field][1]


def _find_end(chunk: Struct) -> int:
    facts = _get_facts(chunk)
    starts = [facts[place][1] for place in (DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE) if place in facts]
    return min(start for start in starts if start) + _get_number(facts, SIZE)


class _Reader:
    """A reader of Thrift structures; it keeps every type, so that what it read can be written again unchanged."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._signed()
            fields[number] = (kind, kind == TRUE if kind in (TRUE, FALSE) else self._value(kind))
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (I16, I32, I64):
            return self._signed()
        if kind == BINARY:
            return self._take(self._unsigned())
        if kind in (LIST, SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            return head & 15, [self._value(head & 15) for _ in range(count)]
        if kind == STRUCT:
            return self.struct()
        if kind == DOUBLE:
            return self._take(8)
        if kind in (BYTE, TRUE, FALSE):
            return self._byte()
        raise BadManifest(f"A Parquet footer has a field of the unknown type {kind}. Was it written by another tool?")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, count: int) -> bytes:
        self._at += count
        return self._content[self._at - count : self._at]

    def _unsigned(self) -> int:
        value, shift = 0, 0
        while (byte := self._byte()) >= 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _signed(self) -> int:
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)


def encode_struct(fields: Mapping[int, tuple[int, Any]]) -> bytes:
    """Return a structure as bytes; `_Reader` reads it back."""
    parts, last = [], 0
    for number in sorted(fields):
        kind, value = fields[number]
        kind = (TRUE if value else FALSE) if kind in (TRUE, FALSE) else kind
        near = 0 < number - last < 16
        parts.append(bytes([(number - last) << 4 | kind]) if near else bytes([kind]) + _encode_signed(number))
        parts.append(b"" if kind in (TRUE, FALSE) else _encode_value(kind, value))
        last = number
    return b"".join(parts) + b"\0"


def _encode_value(kind: int, value: Any) -> bytes:
    if kind in (I16, I32, I64):
        return _encode_signed(value)
    if kind == BINARY:
        return _encode_unsigned(len(value)) + value
    if kind in (LIST, SET):
        inner, values = value
        head = (
            bytes([len(values) << 4 | inner])
            if len(values) < 15
            else bytes([0xF0 | inner]) + _encode_unsigned(len(values))
        )
        return head + b"".join(_encode_value(inner, each) for each in values)
    if kind == STRUCT:
        return encode_struct(value)
    return value if kind == DOUBLE else bytes([value])


def _encode_unsigned(value: int) -> bytes:
    parts = bytearray()
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _encode_signed(value: int) -> bytes:
    return _encode_unsigned(value << 1 if value >= 0 else (-value << 1) - 1)
