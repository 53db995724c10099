"""A page for people, at `/`: ask about an image, and see what the system does."""

from gateway.doors.http.page.routes import make_router

__all__ = ["make_router"]
