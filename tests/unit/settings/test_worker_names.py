"""Several worker names on one fleet: their settings, and the handlers that each offers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery

from mr_celery import modelreins_job
from mr_celery.bridge.routes import registry_of
from mr_celery.clients import Clients
from mr_celery.errors import RoutingError, SettingsError
from mr_celery.settings import Settings, load, require
from mr_celery.settings.worker_names import WorkerNameOptions

TWO = {"image-01": {"token_env": "IMAGE_TOKEN", "capabilities": ["image.generate"]}, "text-01": {"queues": ["text"]}}
TOKENS = {"IMAGE_TOKEN": "of-image", "MODELREINS_TOKEN": "of-all"}


def read(workers: Any, *, name: str | None = None, **environment: str) -> Settings:
    return load({"modelreins_workers": workers}, flags={"name": name}, environment={**TOKENS, **environment})


class TestSettings:
    def test_each_worker_name_has_its_token(self) -> None:
        image, text = read(TWO).each()
        assert (image.name, image.token) == ("image-01", "of-image")
        assert (text.name, text.token) == ("text-01", "of-all")
        assert image.options.capabilities == {"image.generate"}
        assert text.options.queues == {"text"}

    def test_name_selects_one_of_them(self) -> None:
        settings = read(TWO, name="text-01")
        assert [each.name for each in settings.each()] == ["text-01"]
        assert settings.token_of("image-01") == "of-image"  # a Celery worker runs jobs of all worker names

    def test_can_be_set_as_json_in_the_environment(self) -> None:
        settings = load({}, environment={**TOKENS, "MODELREINS_WORKERS": json.dumps(TWO)})
        assert [each.name for each in settings.each()] == ["image-01", "text-01"]

    def test_default_to_the_single_name(self) -> None:
        settings = load({}, environment={"MODELREINS_NAME": "w", "MODELREINS_TOKEN": "t"})
        assert settings.each() == (settings,)
        assert settings.options == WorkerNameOptions("w")
        assert settings.token_of("any") == "t"

    def test_repr_has_no_token(self) -> None:
        assert "of-image" not in repr(read(TWO)) + repr(read(TWO).workers) + repr(read(TWO).each())

    def test_missing_token_names_the_variable(self) -> None:
        image, _ = read(TWO, IMAGE_TOKEN="").each()
        with pytest.raises(
            SettingsError, match=r"^worker name 'image-01' has no token: set IMAGE_TOKEN to the token shown "
        ):
            require(image, "token")

    @pytest.mark.parametrize(
        ("workers", "why"),
        [
            ({}, "the value given is invalid: it must be a mapping such as"),
            ([], "the value given is invalid"),
            ("no json", "the value given is invalid"),
            ('["w"]', "the value given is invalid"),
            ({"": {}}, "'' is not a valid worker name"),
            ({"w\n2": {}}, r"'w\\n2' is not a valid worker name"),
            ({"w": "IMAGE_TOKEN"}, "'w' needs a mapping with token_env, token_file, capabilities, queues"),
            (
                {"w": {"tokenenv": "T"}},
                "'w' has the unknown key 'tokenenv'; allowed are token_env, token_file, capabilities, queues$",
            ),
            ({"w": {"token": "hush"}}, "'w' has the unknown key 'token'; .*; use token_env with the name of an"),
            ({"w": {"token_env": "se cret"}}, "token_env of 'w' must be the name of an environment variable"),
            ({"w": {"token_env": 7}}, "token_env of 'w' must be"),
            ({"w": {"capabilities": "image.generate"}}, "capabilities of 'w' must be a list of strings"),
            ({"w": {"queues": [1]}}, "queues of 'w' must be a list of strings"),
            ({"w": {"queues": []}}, "queues of 'w' must be a list of strings"),
        ],
    )
    def test_invalid_settings_are_refused_without_showing_values(self, workers: Any, why: str) -> None:
        with pytest.raises(SettingsError, match=f"^modelreins_workers: {why}") as refused:
            read(workers)
        assert "hush" not in str(refused.value)
        assert "se cret" not in str(refused.value)

    def test_invalid_token_names_the_variable(self) -> None:
        with pytest.raises(SettingsError, match=r"^IMAGE_TOKEN: the value given is invalid"):
            read(TWO, IMAGE_TOKEN="a\nb")

    def test_unknown_name_is_refused(self) -> None:
        with pytest.raises(SettingsError, match=r"'other' is none of the worker names .* \(image-01, text-01\)"):
            read(TWO, name="other")


@pytest.fixture(scope="module")
def app() -> Celery:
    app = Celery("worker_names", broker="memory://", set_as_current=False)

    @modelreins_job("image.generate")
    @app.task(name="paint")
    def paint(prompt: str) -> str:
        return prompt

    @modelreins_job("text.write", tags=["long"])
    @app.task(name="write", queue="text")
    def write(prompt: str) -> str:
        return prompt

    @modelreins_job
    @app.task(name="anything", queue="text")
    def anything(prompt: str) -> str:
        return prompt

    return app


class TestHandlers:
    @staticmethod
    def names(app: Celery, **options: Any) -> set[str]:
        (settings,) = read({"w": options}).each()
        return {each.name for each in registry_of(app, settings).handlers}

    def test_all_are_offered_by_default(self, app: Celery) -> None:
        assert self.names(app) == {"paint", "write", "anything"}

    def test_are_filtered_by_capability_or_tag(self, app: Celery) -> None:
        assert self.names(app, capabilities=["image.generate"]) == {"paint"}
        assert self.names(app, capabilities=["image.generate", "long"]) == {"paint", "write"}

    def test_are_filtered_by_queue(self, app: Celery) -> None:
        assert self.names(app, queues=["text"]) == {"write", "anything"}
        assert self.names(app, queues=["text"], capabilities=["text.write"]) == {"write"}

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            (
                {"capabilities": ["image.generat"]},
                "'w' names the capability 'image.generat', which no handler has; available: image.generate, long, text",
            ),
            ({"queues": ["gpu"]}, "'w' names the queue 'gpu', which no handler has; available: celery, text"),
            ({"queues": ["text"], "capabilities": ["image.generate"]}, "no handler with a capability of 'w' is on one"),
        ],
    )
    def test_filters_without_a_match_are_refused(self, app: Celery, options: dict[str, Any], why: str) -> None:
        with pytest.raises(RoutingError, match=f"^modelreins_workers: {why}"):
            self.names(app, **options)


class TestDeliveryByWorkers:
    def test_uses_the_token_of_the_jobs_worker_name(self) -> None:
        clients = Clients(read({"a": {"token_env": "IMAGE_TOKEN"}, "b": {"token_env": "MISSING"}}))
        assert clients.delivers("a")
        assert not clients.delivers("b")  # left to the bridge, which has the token
        with pytest.raises(SettingsError, match="worker name 'b' has no token: set MISSING to"):
            clients.api("b")
