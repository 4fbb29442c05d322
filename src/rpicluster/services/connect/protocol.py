"""Spark Connect's messages: generated classes that the runtime carries, loaded without pyspark."""

import importlib
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from rpicluster.errors import ServiceError

_PACKAGE = "pyspark.sql.connect.proto"


def load_messages(proto_path: Path) -> Any:
    """Return the module with Spark Connect's message classes; `proto_path` holds `pyspark/sql/connect/proto`.

    A pyspark that this process has already imported provides them; then `proto_path` is not looked at.
    Raises ServiceError if they are missing or do not fit the installed protobuf.
    """
    loaded = sys.modules.get("pyspark")
    if loaded is not None and getattr(loaded, "__file__", None):
        return importlib.import_module(_PACKAGE)
    return _load(proto_path)


@cache
def _load(proto_path: Path) -> Any:
    directory = proto_path / _PACKAGE.replace(".", "/")
    if not (directory / "base_pb2.py").is_file():
        raise ServiceError(
            f"Spark Connect's messages are not at {directory}",
            hint="rpicluster up (it fetches the runtime again)",
        )
    try:
        return _import_apart(proto_path)
    except Exception as error:
        # protobuf raises its own VersionError, TypeError or ImportError, by version.
        raise ServiceError(
            f"Spark Connect's messages at {directory} do not load: {error}",
            hint="install protobuf >= 6.33, < 8, or start a Python that has not loaded another pyspark",
        ) from error


def _import_apart(proto_path: Path) -> Any:
    """Import the package under stand-in parents, and take all of it out of `sys.modules` again.

    An installed pyspark would win over a path entry, and importing it costs over a second; and stand-ins
    left behind would break a later `import pyspark`. The generated modules need each other by name only
    while they are imported.
    """
    before = {name: module for name, module in sys.modules.items() if _is_pyspark(name)}
    try:
        parents = _PACKAGE.split(".")[:-1]
        for depth in range(1, len(parents) + 1):
            parent = ModuleType(".".join(parents[:depth]))
            parent.__path__ = [str(proto_path.joinpath(*parents[:depth]))]
            sys.modules[parent.__name__] = parent
        return importlib.import_module(_PACKAGE)
    finally:
        for name in [name for name in sys.modules if _is_pyspark(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _is_pyspark(name: str) -> bool:
    return name == "pyspark" or name.startswith("pyspark.")


@cache
def status_messages() -> tuple[Any, Any]:
    """Return the classes of google.rpc's Status and ErrorInfo, in which gRPC servers put an error's details.

    Built here, in a descriptor pool of their own, because the package that carries them is not needed
    for anything else. Field numbers: google/rpc/status.proto and error_details.proto.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto

    def add(message: Any, name: str, number: int, kind: int, *, many: bool = False, of: str = "") -> None:
        label = field.LABEL_REPEATED if many else field.LABEL_OPTIONAL
        message.field.add(name=name, number=number, type=kind, label=label, type_name=of or None)

    file = descriptor_pb2.FileDescriptorProto(name="rpicluster/status.proto", package="rpc", syntax="proto3")
    wrapped = file.message_type.add(name="Any")
    add(wrapped, "type_url", 1, field.TYPE_STRING)
    add(wrapped, "value", 2, field.TYPE_BYTES)
    status = file.message_type.add(name="Status")
    add(status, "code", 1, field.TYPE_INT32)
    add(status, "message", 2, field.TYPE_STRING)
    add(status, "details", 3, field.TYPE_MESSAGE, many=True, of=".rpc.Any")
    info = file.message_type.add(name="ErrorInfo")
    add(info, "reason", 1, field.TYPE_STRING)
    add(info, "domain", 2, field.TYPE_STRING)
    entry = info.nested_type.add(name="MetadataEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_STRING)
    add(info, "metadata", 3, field.TYPE_MESSAGE, many=True, of=".rpc.ErrorInfo.MetadataEntry")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"rpc.{name}"))
        for name in ("Status", "ErrorInfo")
    ]
    return classes[0], classes[1]
