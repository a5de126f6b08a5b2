"""Tasks that create an image, a film or a PDF, attach a log when they fail, or request a review."""

from pathlib import Path
from tempfile import TemporaryDirectory

from celery import Celery
from tools import convert, frames, typeset

from mr_celery import Artifact, Job, JobFailed, Result, Review, modelreins_job
from mr_celery.demo.picture import paint  # stands in for a text-to-image API

app = Celery("studio")


@modelreins_job("image.generate")
@app.task
def image(prompt: str) -> Artifact:
    return Artifact(data=paint(prompt), filename="image.png")


@modelreins_job("video.render")
@app.task
def film(job: Job) -> Result:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        with path.open("wb") as file:
            for frame in frames(job.prompt, count=500):
                job.raise_if_aborted()
                file.write(frame)
        # The folder is gone when this function has returned; what an open file holds is not.
        return Result("rendered", artifacts=[Artifact(data=path.open("rb"), expires_at="2030-01-31T12:00:00Z")])


@modelreins_job("document.typeset")
@app.task
def document(prompt: str) -> Result:
    pdf = Artifact(data=typeset(prompt), content_type="application/pdf", filename="document.pdf")
    source = Artifact(data=prompt.encode(), content_type="text/plain; charset=utf-8", filename="source.txt")
    return Result("typeset", artifacts=[pdf, source])


@modelreins_job("media.convert")
@app.task
def converted(prompt: str) -> str:
    with TemporaryDirectory() as folder:
        log = Path(folder) / "convert.log"
        if not convert(prompt, log):
            raise JobFailed("the conversion failed, see its log", artifacts=[Artifact(data=log.open("rb"))])
    return "converted"


@modelreins_job("poster.design", risk_tier="approve")
@app.task
def poster(job: Job) -> Result:
    drawn = Artifact(data=paint(job.prompt), filename=f"poster-{job.id}.png")
    review = Review(
        type="generated_image",
        title=f"Poster for job {job.id}",
        content=job.prompt,
        preview=drawn,
        target="marketing",
    )
    return Result("waiting for a human", artifacts=[drawn], reviews=[review])


@modelreins_job(
    "text.answer",
    risk_tier="audit",
    review=lambda job, answer: Review(type="answer", title=f"Answer to job {job.id}", content=answer),
)
@app.task
def answer(prompt: str) -> str:
    return f"You asked: {prompt}"
