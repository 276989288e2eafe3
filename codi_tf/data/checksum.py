"""CRC-32C, the checksum of TFRecord files, in NumPy: many parts of the data at a time."""

from __future__ import annotations

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits reflected
_ONES = np.uint32(0xFFFFFFFF)
_LEVEL = 6  # data are cut into lanes of 2**6 words of 4 bytes


def crc32c(data: bytes) -> int:
    """CRC-32C of some bytes (RFC 3720, section 12.1 and appendix B.4)."""
    size = len(data)
    if size < 4:
        table = _after_words(0)[3]  # what one byte does
        register = 0xFFFFFFFF
        for byte in data:
            register = int(table[(register ^ byte) & 255]) ^ (register >> 8)
        return register ^ 0xFFFFFFFF
    lane = 4 << _LEVEL
    padded = np.zeros(-(-size // lane) * lane, np.uint8)  # zeros ahead change nothing: a register of 0 stays 0
    padded[-size:] = np.frombuffer(data, np.uint8)
    first = len(padded) - size
    padded[first : first + 4] ^= 255  # the same as to begin with a register of ones
    words = padded.view("<u4").reshape(-1, 1 << _LEVEL)  # [lanes, words]
    registers, level = _run(words, np.zeros(len(words), np.uint32)), _LEVEL
    while len(registers) > 1:  # of A and B one behind the other: (A, then as many zeros as B has) xor B
        if len(registers) % 2:
            registers = np.concatenate([np.zeros(1, np.uint32), registers])
        registers = _apply(_after_words(level), registers[::2]) ^ registers[1::2]
        level += 1
    return int(registers[0] ^ _ONES)


def crc32c_of_each(numbers: np.ndarray) -> np.ndarray:
    """CRC-32C of the 8 little-endian bytes of each number: uint64 [N] -> uint32 [N]."""
    words = numbers.astype("<u8").view("<u4").reshape(-1, 2)
    return _run(words, np.full(len(words), _ONES)) ^ _ONES


def masked(crc):
    """A checksum as TFRecord files store it: rotated by 15 bits, plus a constant. int or uint32 [N] -> uint64."""
    crc = np.asarray(crc, np.uint64)
    rotated = (crc >> np.uint64(15)) | (crc << np.uint64(17))
    return (rotated + np.uint64(0xA282EAD8)) & np.uint64(0xFFFFFFFF)


def _run(words: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """The registers [lanes] after the words [lanes, words] of their lanes."""
    tables = _after_words(0)
    for column in np.ascontiguousarray(words.T):
        registers = _apply(tables, registers ^ column)
    return registers


def _apply(tables: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """A linear map of registers, uint32 [N] -> uint32 [N], given by what it makes of each of their four bytes."""
    first, second, third, fourth = tables
    last = fourth[registers >> np.uint32(24)]
    return first[registers & 255] ^ second[(registers >> np.uint32(8)) & 255] ^ third[registers >> 16 & 255] ^ last


@functools.cache
def _after_words(level: int) -> np.ndarray:
    """uint32 [4, 256]: what 2**level words of zeros make of each byte of a register, first that of the lowest bits."""
    if level:
        half = _after_words(level - 1)
        return np.stack([_apply(half, table) for table in half])
    registers = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        registers = np.where(registers & 1, (registers >> 1) ^ np.uint32(_POLYNOMIAL), registers >> 1)
    tables = [registers]  # after one byte of zeros, which is all that the highest byte of a register meets ...
    for _ in range(3):  # ... before it leaves; the lower ones have been shifted out by then
        tables.append(registers[tables[-1] & 255] ^ (tables[-1] >> 8))
    return np.stack(tables[::-1]).astype(np.uint32)
