"""The messages of KEDA's service `externalscaler.ExternalScaler`, as its externalscaler.proto numbers their fields.

They are made at run time: six small messages need no generated code, and no compiler to make it.
"""

from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessages

PACKAGE: Final = "externalscaler"
SERVICE: Final = f"{PACKAGE}.ExternalScaler"
WORDS: Final = "map<string, string>"
# A field's name and type, in the order of their numbers.
MESSAGES: Final = {
    "ScaledObjectRef": (("name", "string"), ("namespace", "string"), ("scalerMetadata", WORDS)),
    "IsActiveResponse": (("result", "bool"),),
    "GetMetricSpecResponse": (("metricSpecs", "repeated MetricSpec"),),
    "MetricSpec": (("metricName", "string"), ("targetSize", "int64"), ("targetSizeFloat", "double")),
    "GetMetricsRequest": (("scaledObjectRef", "ScaledObjectRef"), ("metricName", "string")),
    "GetMetricsResponse": (("metricValues", "repeated MetricValue"),),
    "MetricValue": (("metricName", "string"), ("metricValue", "int64"), ("metricValueFloat", "double")),
}
TYPES: Final = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
}


def _add_field(message: DescriptorProto, number: int, name: str, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
    if kind == WORDS:  # on the wire, a map is a repeated message of key and value
        entry = message.nested_type.add(name=f"{name[0].upper()}{name[1:]}Entry")
        entry.options.map_entry = True
        for at, part in enumerate(("key", "value"), 1):
            _add_field(entry, at, part, "string")
        kind = f"repeated {message.name}.{entry.name}"
    if kind.startswith("repeated "):
        field.label = FieldDescriptorProto.LABEL_REPEATED
        kind = kind.removeprefix("repeated ")
    if kind in TYPES:
        field.type = TYPES[kind]
    else:
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{PACKAGE}.{kind}"


def _made() -> dict[str, Any]:
    file = FileDescriptorProto(name="externalscaler.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, 1):
            _add_field(message, number, field, kind)
    return GetMessages([file], pool=DescriptorPool())


_MADE: Final = _made()
ScaledObjectRef: Final = _MADE[f"{PACKAGE}.ScaledObjectRef"]
IsActiveResponse: Final = _MADE[f"{PACKAGE}.IsActiveResponse"]
GetMetricSpecResponse: Final = _MADE[f"{PACKAGE}.GetMetricSpecResponse"]
GetMetricsRequest: Final = _MADE[f"{PACKAGE}.GetMetricsRequest"]
GetMetricsResponse: Final = _MADE[f"{PACKAGE}.GetMetricsResponse"]
