"""Python classes of waymark.v1, generated from the repository's .proto files at run time by grpc_tools.

Nothing of ours lies between the wire and grpcio: a foreign client would start from the same files.
"""

import importlib
import pathlib
import sys
import tempfile

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2  # noqa: F401  (known to the pool: Any prints its content)
from grpc_status import rpc_status
from grpc_tools import protoc

PROTO_DIR = pathlib.Path(__file__).resolve().parents[2] / "proto"
MESSAGE_BYTES_MAX = 64 * 1024 * 1024


class Protos:
    """Finds a message class or a service's stub by its name in the package."""

    def __init__(self, directory=PROTO_DIR):
        files = sorted(directory.glob("waymark/v1/*.proto"))
        if not files:
            raise SystemExit(f"no .proto files under {directory}")
        well_known = pathlib.Path(protoc.__file__).parent / "_proto"
        self.modules = []
        # Gone once imported, so that a peer killed by a test leaves nothing behind.
        with tempfile.TemporaryDirectory(prefix="waymark-protos-") as out:
            status = protoc.main(
                [
                    "protoc",
                    f"-I{directory}",
                    f"-I{well_known}",
                    f"--python_out={out}",
                    f"--grpc_python_out={out}",
                    *map(str, files),
                ]
            )
            if status != 0:
                raise SystemExit("protoc refused the .proto files")
            sys.path.insert(0, out)
            for file in files:
                for suffix in ("_pb2", "_pb2_grpc"):
                    name = f"waymark.v1.{file.stem}{suffix}"
                    self.modules.append(importlib.import_module(name))
            sys.path.remove(out)

    def __getattr__(self, name):
        for module in self.modules:
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"waymark.v1 has no {name}")


def read(path):
    return pathlib.Path(path).read_bytes()


def add_client_options(parser):
    parser.add_argument("--target", required=True, help="host:port")
    parser.add_argument("--ca", required=True, help="PEM of the authority that signs the server")
    parser.add_argument("--cert", help="PEM of our certificate chain")
    parser.add_argument("--key", help="PEM of our key")
    parser.add_argument("--server-name", help="name to check the server's certificate against")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for the whole command")


def channel(options):
    credentials = grpc.ssl_channel_credentials(
        root_certificates=read(options.ca),
        private_key=read(options.key) if options.key else None,
        certificate_chain=read(options.cert) if options.cert else None,
    )
    settings = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    if options.server_name:
        settings.append(("grpc.ssl_target_name_override", options.server_name))
    return grpc.secure_channel(options.target, credentials, settings)


def as_json(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def error_json(error):
    """The refusal as grpcio sees it, with the rich details of google.rpc.Status."""
    found = {"ok": False, "code": error.code().name, "message": error.details(), "details": []}
    status = rpc_status.from_call(error)
    if status is not None:
        found["details"] = [as_json(detail) for detail in status.details]
    return found
