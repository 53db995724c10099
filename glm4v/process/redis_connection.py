"""Connects a process to the Redis of its settings."""

from glm4v.broker import Connection
from glm4v.broker.redis_url import with_credentials
from glm4v.process.settings import ServiceSettings


def connect(settings: ServiceSettings) -> Connection:
    """Connections that open when they are first used. Raises ConfigurationError for a bad URL."""
    username, password = settings.redis_username, settings.redis_password.get_secret_value()
    urls = [settings.redis_url.get_secret_value()]
    if settings.embeddings_redis_url is not None:
        urls.append(settings.embeddings_redis_url.get_secret_value())
    return Connection(*(with_credentials(url, username, password) for url in urls))
