"""Bodies that schemathesis does not know by itself. See https://schemathesis.readthedocs.io."""

import schemathesis


@schemathesis.serializer("application/x-ndjson", "message/rfc822")
def as_they_are(ctx, value):
    if value is None:
        return None
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
