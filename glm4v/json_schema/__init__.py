"""JSON schemas of answers: what is held to, exactly, and a refusal for everything else.

`held_schema` is the one place that decides. The gateway asks it before it accepts a request, the
language worker before it compiles. Neither torch nor the grammar library is needed.

The dialect is draft 2020-12. The answers that a held schema lets through are valid for the schema
as it was given, by the rules of that draft and with exact numbers; not every valid answer is let
through. docs/compatibility.md has the tables.
"""

from glm4v.json_schema.check import held_schema

__all__ = ["held_schema"]
