"""Messages with fields that hold what nobody sends, made from their descriptors."""

import math
import random
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

WHOLE = (0, 1, 99, 1000, 2**31 - 1, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1)
FLOATS = (math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 5e-324, -1.0, 0.0, 1e15)
TEXTS = ("", "x", "default", "λ", "../..", "\0", "x" * 300, "x" * 70_000)
DEEPEST = 4
MAX_BYTES = 3 << 20


def spoil(message: Message, chance: random.Random) -> bytes:
    """The message with one to three of its fields, at any depth, replaced; gRPC takes its size."""
    while True:
        wild = type(message)()
        wild.CopyFrom(message)
        for _ in range(chance.randint(1, 3)):
            _spoil(wild, chance, DEEPEST)
        if wild.ByteSize() < MAX_BYTES:
            return wild.SerializeToString()


def _spoil(message: Any, chance: random.Random, depth: int) -> None:
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = chance.choice(fields)
    name, several = field.name, field.is_repeated
    held = getattr(message, name)
    if chance.random() < 0.1:
        message.ClearField(name)
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        held.clear()
    elif field.message_type is not None and depth > 0:
        if not several:
            held.SetInParent()
            _spoil(held, chance, depth - 1)
        elif held and chance.random() < 0.7:
            _spoil(chance.choice(held), chance, depth - 1)
        elif held:
            held.extend([held[0]] * chance.choice((1, 300)))
        else:
            _spoil(held.add(), chance, depth - 1)
    elif several:
        held.extend([_value(field, chance)] * chance.choice((1, 2, 300)))
    elif field.message_type is None:
        setattr(message, name, _value(field, chance))


def _value(field: FieldDescriptor, chance: random.Random) -> Any:
    kinds: dict[int, Callable[[], Any]] = {
        FieldDescriptor.CPPTYPE_DOUBLE: lambda: chance.choice(FLOATS),
        FieldDescriptor.CPPTYPE_UINT32: lambda: chance.choice([v for v in WHOLE if v < 2**32]),
        FieldDescriptor.CPPTYPE_UINT64: lambda: chance.choice(WHOLE),
        FieldDescriptor.CPPTYPE_ENUM: lambda: chance.choice([-1, 0, 1, 2, 3, 4, 99]),
        FieldDescriptor.CPPTYPE_BOOL: lambda: chance.random() < 0.5,
    }
    if field.cpp_type in kinds:
        return kinds[field.cpp_type]()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return chance.choice((b"", b"x", b"x" * 70_000))
    return chance.choice(TEXTS)
