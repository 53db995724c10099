"""Options of gRPC servers: connections, keepalive and flow control."""

import resource

from glm4v.process.call_limits import CallLimits

MIN_PING_MS = 5_000  # half of the shortest interval that most clients allow
_KEEPALIVE_MS, _PING_TIMEOUT_MS = 30_000, 20_000  # a paused client is given a while
_IDLE_MS = 600_000  # closes connections without calls; clients reconnect when needed
_HANDSHAKE_MS = 10_000
_CONNECTIONS = 10_000
_WINDOW_BYTES = 16 * 2**10  # what a call may send before it is read
_SPARE_FILES = 256  # for Redis, checkpoint and libraries


def server_options(limits: CallLimits) -> list[tuple[str, int]]:
    """Channel arguments of a server with these limits."""
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.so_reuseport", 0),
        # Clients may ping every 10 s, with or without calls. A client or proxy that answers no ping
        # is disconnected, which ends its streams.
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_allowed_incoming_connections", max_connections()),
        # Further calls wait in the client; proxies open another connection.
        ("grpc.max_concurrent_streams", limits.max_calls_per_connection),
        # Applies to unread data; a message that is being read may be larger.
        ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
        ("grpc.http2.bdp_probe", 0),  # would raise the window to megabytes
        # gRPC's own limits cancel calls at random; CallLimits refuses them with a reason.
        ("grpc.server.max_pending_requests", 4 * limits.max_calls),
        ("grpc.server.max_pending_requests_hard_limit", 8 * limits.max_calls),
    ]


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit: each connection is an open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def max_connections() -> int:
    """How many connections a server takes: each is an open file."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _CONNECTIONS
    return min(_CONNECTIONS, max(soft - _SPARE_FILES, soft // 2))
