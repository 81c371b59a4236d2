"""The part of etcd's protocol that a store needs, as protobuf classes made when this is imported.

The declarations are those of etcd's rpc.proto and kv.proto: same names, numbers and types, but for what is never used,
for enums (their numbers suffice) and for oneofs (which look the same on the wire). etcd takes a field that is written,
though empty, for one that is meant (`range_end`: to the end of all keys); proto3 writes none, which is what we want.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PROTO = """
message ResponseHeader { uint64 cluster_id = 1; uint64 member_id = 2; int64 revision = 3; }
message KeyValue { bytes key = 1; int64 mod_revision = 3; bytes value = 5; int64 lease = 6; }
message Event { int32 type = 1; KeyValue kv = 2; }

message RangeRequest {
    bytes key = 1; bytes range_end = 2; int64 limit = 3; int64 revision = 4; bool keys_only = 8; bool count_only = 9;
}
message RangeResponse { ResponseHeader header = 1; repeated KeyValue kvs = 2; bool more = 3; }
message PutRequest { bytes key = 1; bytes value = 2; int64 lease = 3; }
message DeleteRangeRequest { bytes key = 1; }
message RequestOp {
    RangeRequest request_range = 1; PutRequest request_put = 2; DeleteRangeRequest request_delete_range = 3;
}
message Compare { int32 result = 1; int32 target = 2; bytes key = 3; int64 mod_revision = 6; }
message TxnRequest { repeated Compare compare = 1; repeated RequestOp success = 2; repeated RequestOp failure = 3; }
message TxnResponse { ResponseHeader header = 1; bool succeeded = 2; }
message CompactionRequest { int64 revision = 1; }
message CompactionResponse { ResponseHeader header = 1; }

message WatchCreateRequest { bytes key = 1; bytes range_end = 2; int64 start_revision = 3; }
message WatchProgressRequest { }
message WatchRequest { WatchCreateRequest create_request = 1; WatchProgressRequest progress_request = 3; }
message WatchResponse {
    ResponseHeader header = 1; bool created = 3; bool canceled = 4; int64 compact_revision = 5;
    string cancel_reason = 6; repeated Event events = 11;
}

message LeaseGrantRequest { int64 TTL = 1; }
message LeaseGrantResponse { ResponseHeader header = 1; int64 ID = 2; int64 TTL = 3; }
message LeaseKeepAliveRequest { int64 ID = 1; }
message LeaseKeepAliveResponse { ResponseHeader header = 1; int64 ID = 2; int64 TTL = 3; }
message LeaseRevokeRequest { int64 ID = 1; }
message LeaseRevokeResponse { ResponseHeader header = 1; }

message AuthenticateRequest { string name = 1; string password = 2; }
message AuthenticateResponse { ResponseHeader header = 1; string token = 2; }
message StatusRequest { }
message StatusResponse { ResponseHeader header = 1; string version = 2; uint64 leader = 4; }
"""

DELETE = 1  # Event.type
MOD = 2  # Compare.target; its result 0 is EQUAL

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint64": _Field.TYPE_UINT64,
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "string": _Field.TYPE_STRING,
}
_PACKAGE = "kbroker.etcd"


def classes(proto: str) -> dict[str, Any]:
    """The message classes of a text like the one above, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="kbroker/etcd.proto", package=_PACKAGE, syntax="proto3")
    for name, body in re.findall(r"message (\w+) \{(.*?)\}", proto, re.DOTALL):
        message = file.message_type.add(name=name)
        for repeated, kind, field, number in re.findall(r"(repeated )?(\w+) (\w+) = (\d+);", body):
            message.field.add(
                name=field,
                number=int(number),
                label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
                type=_SCALARS.get(kind, _Field.TYPE_MESSAGE),
                type_name=None if kind in _SCALARS else f".{_PACKAGE}.{kind}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}"))
        for message in file.message_type
    }


pb = SimpleNamespace(**classes(PROTO))


class Method(NamedTuple):
    """A call."""

    path: str
    answer: Any  # its class
    is_current: bool = False  # the answer knows of all that was committed before the question


RANGE = Method("/etcdserverpb.KV/Range", pb.RangeResponse, is_current=True)
TXN = Method("/etcdserverpb.KV/Txn", pb.TxnResponse, is_current=True)
COMPACT = Method("/etcdserverpb.KV/Compact", pb.CompactionResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", pb.WatchResponse)
LEASE_GRANT = Method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantResponse)
# Declared as a stream in both directions. Of one message each way that is the same on the wire as a plain call.
LEASE_KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveResponse)
LEASE_REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeResponse)
AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", pb.AuthenticateResponse)
STATUS = Method("/etcdserverpb.Maintenance/Status", pb.StatusResponse)
