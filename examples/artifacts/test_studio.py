"""The results of the studio's tasks."""

import studio

from mr_celery.testing import JobRun


def test_an_image(modelreins_run: JobRun) -> None:
    job = modelreins_run(studio.image, prompt="a lighthouse")
    assert job.result == "made image.png"
    assert job.artifacts[0].content_type == "image/png"


def test_a_film_that_is_larger_than_memory_should_be(modelreins_run: JobRun) -> None:
    job = modelreins_run(studio.film, prompt="waves")
    assert job.artifacts[0].filename == "film.mp4"
    assert job.artifacts[0].expires_at == "2030-01-31T12:00:00Z"
    assert len(job.artifacts[0].data) > 2**20


def test_a_document_with_its_source(modelreins_run: JobRun) -> None:
    job = modelreins_run(studio.document, prompt="A letter")
    assert [each.filename for each in job.artifacts] == ["document.pdf", "source.txt"]
    assert job.artifacts[1].text == "A letter"


def test_a_conversion_that_fails_leaves_its_log(modelreins_run: JobRun) -> None:
    job = modelreins_run(studio.converted, prompt="a broken film")
    assert job.failed
    assert job.result == "the conversion failed, see its log"
    assert "converting a broken film" in job.artifacts[0].text


def test_a_conversion_that_succeeds(modelreins_run: JobRun) -> None:
    job = modelreins_run(studio.converted, prompt="a film")
    assert job.done
    assert job.artifacts == []


def test_a_poster_waits_for_a_human(modelreins_run: JobRun) -> None:
    job = modelreins_run(studio.poster, prompt="the sea")
    assert job.reviews[0].preview == job.artifacts[0]
    assert job.reviews[0].target == "marketing"


def test_each_answer_gets_its_review(modelreins_run: JobRun) -> None:
    job = modelreins_run(studio.answer, prompt="why?")
    assert job.reviews[0].content == job.result == "You asked: why?"
