"""What makes a page an app that browsers install: its web app manifest, its icons and its service worker's list."""

from __future__ import annotations

import base64
import hashlib
import io
import json

from PIL import Image, ImageDraw

Files = dict[str, bytes]  # path in the site -> content
MANIFEST = "app.json"  # not every server knows .webmanifest
SERVICE = "service.js"
PAPER, ACCENT, BEFORE = "#faf8f4", "#0b6b5d", "#7fd1bd"  # as in page/style.css
ICONS = {"icons/192.png": (192, False), "icons/512.png": (512, False), "icons/maskable.png": (512, True)}
TOUCH_ICON = "icons/180.png"


def head(version: str) -> str:
    """What the head of the page says of the app."""
    return (
        f'<meta name="version" content="{version}">\n'
        f'<link rel="manifest" href="{MANIFEST}">\n'
        f'<link rel="icon" type="image/png" href="icons/192.png">\n'
        f'<link rel="apple-touch-icon" href="{TOUCH_ICON}">'
    )


def app_files(task: str) -> Files:
    """The manifest and the icons of the page of a task."""
    name = task.replace("_", " ")
    manifest = {
        "id": "./",
        "name": f"CoDi: {name}",
        "short_name": f"CoDi {name}"[:24],
        "description": "Runs a model on images in the browser; no image leaves the device.",
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": PAPER,
        "theme_color": PAPER,
        "categories": ["photo", "utilities"],
        "icons": [
            {"src": path, "sizes": f"{side}x{side}", "type": "image/png", "purpose": "maskable" if full else "any"}
            for path, (side, full) in ICONS.items()
        ],
        "share_target": {
            "action": "share",
            "method": "POST",
            "enctype": "multipart/form-data",
            "params": {"files": [{"name": "photo", "accept": ["image/*"]}]},
        },
    }
    icons = {path: icon(side, full=full) for path, (side, full) in ICONS.items()}
    return {MANIFEST: json.dumps(manifest, indent=2).encode(), TOUCH_ICON: icon(180, full=True), **icons}


def icon(side: int, *, full: bool) -> bytes:
    """The icon as PNG: a disk, its left half before and its right half after. `full`: without a transparent edge."""
    large = 4 * side
    image = Image.new("RGBA", (large, large), PAPER if full else (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    edge = large * (0.22 if full else 0.04)  # what is within 0.4 of the middle is never cut off
    box = (edge, edge, large - edge, large - edge)
    draw.pieslice(box, 90, 270, fill=BEFORE)
    draw.pieslice(box, 270, 90, fill=ACCENT)
    middle, half = large / 2, 0.022 * large
    draw.rectangle((middle - half, edge, middle + half, large - edge), fill="white")
    radius = 0.1 * large
    draw.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill="white")
    file = io.BytesIO()
    image.resize((side, side), Image.Resampling.LANCZOS).save(file, "PNG", optimize=True)
    return file.getvalue()


def version_of(files: Files) -> str:
    """A name that stands for the content of all files."""
    digest = hashlib.sha256()
    for path, content in sorted(files.items()):
        digest.update(f"{path} {len(content)} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def service(script: bytes, version: str, shell: Files) -> bytes:
    """The service worker: its script, with the version and the files that it fetches, each with its hash."""
    listed = (
        f"{path}|sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}"
        for path, content in shell.items()
    )
    filled = script.decode().replace("<!--version-->", version).replace("<!--shell-->", " ".join(listed))
    return filled.encode()
