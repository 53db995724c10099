"""HTTP doors: one ASGI application for every format, beside gRPC in the same process.

    listener ── process.http_server (connections, slow clients) ── calls (counts, drain, metrics)
       └─ app ── router of a format ── route (limits, errors in the format) ── an endpoint
                                                                                 │
              content, options ─► GenerateRequest ── running.start ── facade ◄───┘
              stream.StreamResponse (encoder, framing, position) | answer.AnswerResponse ◄─ events

A format is a module or package with `make_router(gateway) -> APIRouter`, added in `app.FORMATS`:

- its router is made with `route_class=route_class(errors)`, where `errors` is the format's
  `errors.ErrorForm`: every `glm4v.errors` error and every body that does not validate becomes the
  format's error body;
- an endpoint reads its body with `body.read_body` into a `body.Body`, a pydantic model in strict
  mode, and has a parameter `terms: Terms` with what headers say: caller, request id, deadline and
  resumption. Who the caller is, is decided in `caller` alone;
- `content.read_content` makes parts from text or the list of texts and one image that all formats
  share, `glm4v.client.options.build_request` the message from its messages and options;
- `running.start` submits or resumes it; what it returns goes into one of two responses.
  `StreamResponse` takes an `Encoder`, which makes the payloads of frames from events, and a
  `Framing` (`sse.EventStreamFraming`); `AnswerResponse` takes a function from `Answer` to the
  body.

An endpoint returns at once, and the response follows the events: a body of megabytes is held while
its request is admitted, not while it is answered.
"""
