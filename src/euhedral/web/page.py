"""What every page shares: one file that works offline, with no script but the package's own, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from euhedral.errors import OutputError

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def write_page(target: Path, page: str, what: str) -> Path:
    """Write a page and return its path; it is written beside its place and renamed, which replaces an older one.

    Raises:
        OutputError: where the file cannot be written; `what` names it in the message, as "the gallery".
    """
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads; a page is for everyone whom the umask lets.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"cannot write {what} {target}: {error}; choose another folder or free space") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return target


def facts_html(facts: Mapping[str, str]) -> str:
    """A list of names and values; any text is escaped, no facts give no list."""
    rows = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def policy(*scripts: str) -> str:
    """Content security policy: no network at all, and no script but those of the package, known by their hashes."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def resource(name: str) -> str:
    """Text of a file that comes with the pages."""
    return files("euhedral.web").joinpath(name).read_text(encoding="utf-8")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put each value in its place {{name}} in one pass, so that no value is read for places again."""
    return _PLACE.sub(lambda match: values[match[1]], template)
