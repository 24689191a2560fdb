"""What goes in and out of the routes of webhooks, as pydantic models."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from greenscale_worker.gateway.schemas import MOST_LISTED, In, Out, Page
from greenscale_worker.webhooks.addresses import LONGEST_URL
from greenscale_worker.webhooks.events import EVENT_TYPES, EventType

Status = Literal["enabled", "disabled"]
Name = Annotated[str, Field(min_length=1, max_length=200, description="For people.")]
Url = Annotated[str, Field(min_length=1, max_length=LONGEST_URL, description="Where events go, by https.")]


def _each_once(types: list[EventType]) -> list[EventType]:
    return list(dict.fromkeys(types))


EventTypes = Annotated[
    list[EventType],
    Field(min_length=1, max_length=4 * len(EVENT_TYPES), description="Which events are sent."),
    AfterValidator(_each_once),
]


class WebhookCreate(In):
    """A new endpoint."""

    event_types: EventTypes
    name: Name
    url: Url


class WebhookUpdate(In):
    """What is to be changed of an endpoint."""

    event_types: EventTypes | None = None
    name: Name | None = None
    url: Url | None = None
    status: Status | None = Field(None, description="`enabled`: an endpoint that answered 410 gets events again.")


class WebhookRotate(In):
    """How to change the secret."""

    keep_old_secret_active_for_24_hours: bool = Field(
        default=False, description="The old one signs beside it for a day."
    )


class WebhookTest(In):
    """Which event to send."""

    event_type: EventType


class WebhooksQuery(Page):
    """A part of the list."""

    limit: int = Field(20, ge=1, le=100, description="How many at most.")


class WebhookEndpoint(Out):
    """Where events are sent. Times are seconds since the epoch."""

    id: str
    object: Literal["webhook_endpoint"]
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[EventType]
    signing_secret_hint: str
    status: Status
    disabled_at: int | None
    disabled_reason: str | None


class WebhookEndpointWithSecret(WebhookEndpoint):
    """The same with the secret, which is shown only now."""

    signing_secret: str


class WebhookEndpointList(Out):
    """A page of endpoints, the newest first."""

    object: Literal["list"]
    data: list[WebhookEndpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookEventTypeList(Out):
    """The events that there are."""

    object: Literal["list"]
    data: list[EventType]


class WebhookDeleted(Out):
    """The endpoint is gone."""

    id: str
    object: Literal["webhook_endpoint.deleted"]
    deleted: bool


class WebhookTestResult(Out):
    """The receiver has answered, with this status."""

    object: Literal["webhook_endpoint.test"]
    webhook_endpoint_id: str
    event_type: EventType
    status_code: int
    success: Literal[True]


class WebhookEvent(Out):
    """An event, as it is sent."""

    id: str
    object: Literal["event"]
    created_at: int
    type: EventType
    data: dict[str, str]


class WebhookFailure(Out):
    """A delivery that is not tried again by itself, after so many `tries`. `code` and `message` are of the last."""

    id: str
    object: Literal["webhook_endpoint.failure"]
    event: WebhookEvent
    tries: int
    code: str
    message: str
    failed_at: int


class WebhookFailureList(Out):
    """A page of failures, the latest first."""

    object: Literal["list"]
    data: list[WebhookFailure]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookReplay(In):
    """Which failures."""

    ids: list[str] | None = Field(None, max_length=MOST_LISTED, description="Up to 1,000; without it, all.")
