"""The documentation site: it builds, with every warning an error, and what its own extension does is there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    for needed in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return out


def page(site: Path, name: str) -> str:
    return (site / name).read_text(encoding="utf-8")


@pytest.mark.timeout(300)
def test_the_site_builds_without_a_warning(site):
    """Every page is reached from the first one, and every reference leads somewhere."""
    assert "life and death" in page(site, "index.html")
    assert ".. py:" not in page(site, "reference/index.html")


@pytest.mark.timeout(300)
def test_pictures_are_in_the_page(site):
    """A picture's words can be found on its page, and its colours follow the page's switch."""
    life = page(site, "life.html")
    assert life.count('<svg xmlns="http://www.w3.org/2000/svg" class="drawn"') == 11
    assert 'body[data-theme="dark"] svg.drawn' in life


@pytest.mark.timeout(300)
def test_a_link_to_a_function_leads_to_its_line(site):
    """The source is a part of the site."""
    assert 'source/reactor/connection.py.html#Connection.close"' in page(site, "life.html")
    assert '<span id="Connection.close"></span>' in page(site, "source/reactor/connection.py.html")


@pytest.mark.timeout(300)
def test_nothing_is_asked_of_the_network(site):
    """No page loads anything from elsewhere."""
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert 'src="http' not in text, path
        assert 'rel="stylesheet" type="text/css" href="http' not in text, path
