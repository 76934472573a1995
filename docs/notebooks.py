"""Executes the notebooks on a run and writes them as Markdown with pictures: ``python docs/notebooks.py RUN [FOLDER]``.

Without a folder they are the copies in docs/notebooks/.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = tuple(ROOT / "analysis" / f"{name}.ipynb" for name in ("tradeoff", "front", "one_trial"))
#: Bytes of a copy with its pictures.
MOST = 2 << 20


def render(path: Path, folder: Path) -> int:
    """Execute a notebook and write it; return its size in bytes.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as scratch:
        # sockets in the file system: nothing listens on the network, and none is left lying here
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(Path(scratch) / "kernel"))
        NotebookClient(notebook, km=kernel, timeout=600, resources={"metadata": {"path": ROOT}}).execute()
    pictures = f"{path.stem}_files"
    text, found = MarkdownExporter().from_notebook_node(notebook, {"output_files_dir": pictures})
    # a table's style is no part of it, and Markdown shows it as text
    text = re.sub(r"<style scoped>.*?</style>\n?", "", text, flags=re.DOTALL)
    (folder / pictures).mkdir(parents=True, exist_ok=True)
    for old in (folder / pictures).iterdir():
        old.unlink()
    for name, content in found["outputs"].items():
        # a palette is enough for figures, at a third of the size
        Image.open(io.BytesIO(content)).convert("RGB").quantize(256).save(folder / name, optimize=True)
    (folder / f"{path.stem}.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    return len(text) + sum((folder / name).stat().st_size for name in found["outputs"])


def main(run: str, folder: str = str(ROOT / "docs" / "notebooks")) -> int:
    """Render all; 1 if one is too large to be kept."""
    os.environ["GIMTUNE_RUN"] = str(Path(run).resolve())
    sizes = {path.stem: render(path, Path(folder)) for path in NOTEBOOKS}
    for name, size in sizes.items():
        print(f"{name}: {size / 1e6:.2f} MB" + (f", more than {MOST / 1e6:.0f}" if size > MOST else ""))
    return int(max(sizes.values()) > MOST)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]) if len(sys.argv) in (2, 3) else __doc__)
