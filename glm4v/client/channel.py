"""The options of a connection to a gateway."""

_MAX_MESSAGE_BYTES = 64 * 2**20  # images go up in one message

# A frozen or unreachable gateway is detected after the sum of both. The ping timeout decides:
# `grpc.keepalive_timeout_ms` alone leaves it at a minute.
KEEPALIVE_MS = 10_000  # servers in Go reject shorter ones
PING_TIMEOUT_MS = 5_000
_CONNECT_MS = 5_000  # of one attempt; gRPC calls it the least pause between two


ChannelOptions = list[tuple[str, str | int]]


def channel_options(target: str) -> ChannelOptions:
    """Options for large images, quick reconnection and detection of a frozen gateway."""
    options: ChannelOptions = [
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),  # idle streams need pings most
    ]
    if target.startswith(("127.", "localhost", "[::1]")):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy has another loopback
    return options
