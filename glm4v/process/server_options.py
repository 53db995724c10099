"""What gRPC itself is told about connections to a process."""

import resource

from glm4v.process.call_limits import CallLimits

MIN_PING_MS = 5_000  # half of what clients of most languages may be set to
_KEEPALIVE_MS, _PING_TIMEOUT_MS = 30_000, 20_000  # a client that is paused is not gone at once
_IDLE_MS = 600_000  # a connection without calls; its client opens another one when it needs one
_HANDSHAKE_MS = 10_000
_CONNECTIONS = 10_000
_WINDOW_BYTES = 16 * 2**10  # of a call whose message is not read yet
_SPARE_FILES = 256  # for Redis, the checkpoint, libraries


def server_options(limits: CallLimits) -> list[tuple[str, int]]:
    """Arguments of a server's channels."""
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.so_reuseport", 0),
        # Clients may look after the connection every 10 s, whatever is on it; a client or proxy
        # that answers no ping is gone, and so are its streams.
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_allowed_incoming_connections", _connections()),
        # Calls above it wait at their client, and proxies open another connection.
        ("grpc.max_concurrent_streams", limits.max_calls_per_connection),
        # What a call may send that nobody reads. A message that is read may be as large as it is.
        ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
        ("grpc.http2.bdp_probe", 0),  # it would raise that to megabytes
        # gRPC's own limits cancel calls at random; ours refuses them by name.
        ("grpc.server.max_pending_requests", 4 * limits.max_calls),
        ("grpc.server.max_pending_requests_hard_limit", 8 * limits.max_calls),
    ]


def raise_file_limit() -> None:
    """As many connections as the system allows this process: each is an open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _CONNECTIONS
    return min(_CONNECTIONS, max(soft - _SPARE_FILES, soft // 2))
