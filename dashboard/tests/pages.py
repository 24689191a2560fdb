"""Runs one part of the page without a browser."""

from streamlit.testing.v1 import AppTest


def _draw(part: str) -> None:
    import importlib  # noqa: PLC0415  this function is a script of its own

    importlib.import_module(f"greenscale_dashboard.{part}").page()


def open_page(part: str, **query: str) -> AppTest:
    page = AppTest.from_function(_draw, args=(part,), default_timeout=20)
    for name, value in query.items():
        page.query_params[name] = value
    return page.run()


def words(page: AppTest) -> str:
    """All that a reader reads, but for labels of fields."""
    parts = (page.title, page.markdown, page.caption, page.error, page.warning, page.info, page.code, page.success)
    found = [each.value for part in parts for each in part]
    found += [each.label for each in page.status] + [f"{each.label} {each.value} {each.delta}" for each in page.metric]
    return "\n".join(map(str, found))
