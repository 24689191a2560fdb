"""Rows of the database as the values of the domain."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from kubeserve.database.tables import deployments, files, revisions, versions
from kubeserve.domain import (
    Deployment,
    DeploymentState,
    Desired,
    File,
    Format,
    Outcome,
    Revision,
    Spec,
    Step,
    Version,
    VersionState,
)


async def read_versions(connection: AsyncConnection, query: Select[Any]) -> list[Version]:
    """Run a query for rows of `versions`, and read their files with them."""
    rows = (await connection.execute(query)).mappings().all()
    of: dict[str, list[File]] = defaultdict(list)
    mine = files.c.version_id.in_([row[versions.c.id] for row in rows])
    for row in (await connection.execute(select(files).where(mine).order_by(files.c.name))).mappings():
        of[row["version_id"]].append(File(row["name"], row["size"], row["sha256"], row["key"]))
    return [_version(row, of[row["id"]]) for row in rows]


async def read_deployments(connection: AsyncConnection, query: Select[Any]) -> list[Deployment]:
    """Run a query for rows of `deployments`, and read their revisions with them."""
    rows = (await connection.execute(query)).mappings().all()
    of: dict[str, list[Revision]] = defaultdict(list)
    mine = revisions.c.deployment_id.in_([row[deployments.c.id] for row in rows])
    for row in (await connection.execute(select(revisions).where(mine).order_by(revisions.c.number))).mappings():
        of[row["deployment_id"]].append(Revision(row["number"], Spec(**row["spec"]), row["created_at"]))
    return [_deployment(row, of[row["id"]]) for row in rows]


def steps_as_json(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Give the steps of a proof as they are kept."""
    return [asdict(step) for step in steps]


def _version(row: RowMapping, its_files: list[File]) -> Version:
    told: dict[str, Any] = dict(row)
    steps = [Step(step["name"], Outcome(step["outcome"]), step["seconds"], step["detail"]) for step in told["steps"]]
    told["state"] = VersionState(told["state"])
    told["format"] = Format(told["format"]) if told["format"] else None
    return Version(**{**told, "files": tuple(its_files), "steps": tuple(steps)})


def _deployment(row: RowMapping, its_revisions: list[Revision]) -> Deployment:
    told: dict[str, Any] = dict(row)
    told["desired"] = Desired(told["desired"])
    told["state"] = DeploymentState(told["state"])
    return Deployment(**{**told, "revisions": tuple(its_revisions)})
