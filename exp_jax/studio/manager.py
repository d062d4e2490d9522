"""The queue of jobs: one runs at a time in a warm worker process, which is started again when it
dies; the others wait.

    with Studio(Settings(), {'proxy': {'export': None}}) as studio:
      job = studio.create('animate', engine='proxy', portrait=upload, driving=other,
      options={'size': 256}) studio.wait(job.id)

Everything that is decided here is on disk before it is said: a studio that is killed and started
again goes on.
"""

import collections
import contextlib
import dataclasses
import pathlib
import threading
import time

from exp_jax.errors import UserError
from exp_jax.files.atomic import new_folder, remove_folder
from exp_jax.files.locks import only_one
from exp_jax.studio import jobs
from exp_jax.studio.child import WORKER, Child, Died, Silent
from exp_jax.studio.jobs import CANCELLED, DONE, ENDED, FAILED, QUEUED, RUNNING, Job
from exp_jax.studio.live.sessions import Sessions
from exp_jax.studio.refusals import NotYet, Refused, TooMany, Unknown, told
from exp_jax.studio.requests import check_kind, check_preview, checked_options
from exp_jax.studio.runs import Runs
from exp_jax.studio.settings import Settings
from exp_jax.studio.uploads import Uploads, is_id, link_or_copy, new_id

_ATTEMPTS = 2  # of a job whose server was ended meanwhile
_SWEEP = 30.0  # seconds between two looks for what is to be deleted
_TICK = 0.2  # seconds between two looks at a job that was cancelled
_LEAVE = 5.0  # seconds that a worker has for its end


class Studio:
  """Uploads, jobs and the worker. Use it in a `with`; it may be used from several threads.

  Args:
    settings: limits and places.
    loading: {engine: how it is loaded}, see `settings.loading_of`; other engines are refused.
    command: the worker process.

  Attributes:
    settings: as given.
    engines: names of the engines that are there.
    uploads: files that clients have handed over.
    sessions: portraits that are drawn one frame at a time.
    runs: training runs that may be looked at, or None.
  """

  def __init__(
    self, settings: Settings, loading: dict[str, dict], *, command: tuple[str, ...] = WORKER
  ):
    self.settings, self.engines, self._loading = settings, tuple(loading), loading
    self._worker, self._inspector, self._command = Child(command), Child(command), command
    self.runs = None if settings.runs is None else Runs(settings.runs)
    self._open, self._lock = contextlib.ExitStack(), threading.RLock()
    self._changed, self._leaving = threading.Condition(self._lock), False
    self._jobs: dict[str, Job] = {}
    self._queue: collections.deque[str] = collections.deque()
    self._running: str | None = None
    self._forget = False
    self.sessions: Sessions | None = None  # until the folder is ours

  def __enter__(self) -> 'Studio':
    place = self.settings.place
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    self._open.enter_context(only_one(place, folder=True))
    self.uploads = Uploads(self.settings, self._inspector)
    self.sessions = Sessions(self.settings, self._loading, self.uploads, command=self._command)
    self._folder = place / 'jobs'
    self._folder.mkdir(exist_ok=True)
    with self._lock:
      for job in jobs.load_all(self._folder):
        self._jobs[job.id] = job
        self._take_up(job)
    for work, name in ((self._work, 'exp_jax queue'), (self._sweep_always, 'exp_jax sweep')):
      threading.Thread(target=work, name=name, daemon=True).start()
    return self

  def __exit__(self, *_):
    with self._lock:
      self._leaving = True
      self._changed.notify_all()
    self._worker.close(_LEAVE)
    self._inspector.close(_LEAVE)
    if self.sessions is not None:
      self.sessions.leave(_LEAVE)
    with self._lock:
      while self._running is not None:
        self._changed.wait(1)
    self._open.close()

  # --- what clients ask for ---

  def create(
    self,
    kind: str,
    *,
    engine: str,
    portrait: str,
    driving: str | None = None,
    options: dict | None = None,
    preview: float = 0.0,
  ) -> Job:
    """Puts a job into the queue.

    Args:
      kind: 'animate'; or, without a driver, 'portrait': the fitted head over the portrait; 'fit': a
        subject, of a picture, a clip or a subject file, and its normals frame by frame.
      engine: one of `engines`.
      portrait: id of an upload.
      driving: id of an upload.
      options: {name: JSON value} of the engine's options.
      preview: so many seconds of the result are shown before the rest is drawn; 0: none.

    Raises:
      TooMany: the queue, or the room for results, is full.
      UserError: an upload that is not there, an option that is not, or a value that it cannot have.
    """
    check_kind(kind)
    check_preview(kind, preview)
    if engine not in self.engines:
      raise Refused(
        f'this server has no engine {told(engine)[:40]!r}; it has {", ".join(self.engines)}'
      )
    if kind != 'animate' and engine != 'proxy':
      raise Refused(f"a job of kind '{kind}' needs the engine 'proxy', whose head is drawn")
    options, used = dict(options or {}), {}
    source = self.uploads.path(portrait)
    driver = self.uploads.path(driving) if kind == 'animate' else None
    checked_options(
      engine, options, lambda upload: used.setdefault(upload, self.uploads.path(upload))
    )
    now = time.time()
    job = Job(
      new_id(),
      kind,
      engine,
      options,
      source.name,
      driver.name if driver else '',
      now,
      now + self._keep,
      float(preview),
    )
    with self._lock:
      if len(self._queue) >= self.settings.queue:
        raise TooMany(
          f'{len(self._queue)} jobs wait already, the limit of this server: try again later'
        )
      if len(self._jobs) >= self.settings.jobs:
        raise TooMany(
          f'{len(self._jobs)} jobs lie here, the limit of this server: delete some, or try again '
          'later'
        )
      with new_folder(self._folder / job.id) as partial:
        for name, path in (
          ('portrait', source),
          ('driving', driver),
          *((f'files/{upload}', path) for upload, path in used.items()),
        ):
          if path is not None:
            (partial / name).mkdir(parents=True)
            link_or_copy(path, partial / name / path.name)
        jobs.save(partial, job)
      self._jobs[job.id] = job
      self._queue.append(job.id)
      self._changed.notify_all()
    return dataclasses.replace(job)

  def get(self, job: object) -> Job:
    """A copy of a job's record.

    Raises:
      Unknown: there is none.
    """
    with self._lock:
      return dataclasses.replace(self._known(job))

  def place_in_queue(self, job: str) -> int:
    """How many jobs come before it, counting the one that runs."""
    with self._lock:
      return 0 if job not in self._queue else self._queue.index(job) + (self._running is not None)

  def list(self) -> list[Job]:
    """Copies of all jobs, the newest first."""
    with self._lock:
      return [
        dataclasses.replace(job)
        for job in sorted(self._jobs.values(), key=lambda job: -job.created)
      ]

  def results(self, job: object) -> dict[str, pathlib.Path]:
    """{name: file} of what a job that is done has made; Unknown as of `get`."""
    found = self.get(job)
    return jobs.results_of(self._folder / found.id, found)

  def cancel(self, job: object) -> Job:
    """Takes a job out of the queue, or stops it; nothing that it has made so far stays.

    A job that has ended stays as it is.
    """
    with self._lock:
      found = self._known(job)
      if found.state == QUEUED:
        self._queue.remove(found.id)
        self._end(found, CANCELLED)
      elif found.state == RUNNING and not found.cancelling:
        found.cancelling = True
        self._worker.tell({'do': 'cancel', 'job': found.id})
        self._changed.notify_all()
      return dataclasses.replace(found)

  def delete(self, job: object) -> None:
    """Deletes a job that has ended, with all its files, and what the worker remembers of its faces.

    Raises:
      NotYet: it waits or runs.
      Unknown: there is none.
    """
    with self._lock:
      found = self._known(job)
      if found.state not in ENDED:
        raise NotYet('the job has not ended: cancel it first')
      remove_folder(self._folder / found.id)
      del self._jobs[found.id]
      self._forget_soon()

  def delete_upload(self, upload: object) -> None:
    """Deletes an upload; jobs that were made of it keep what they need until their own end."""
    self.uploads.delete(upload)
    with self._lock:
      self._forget_soon()

  def wait(self, job: str, seconds: float = 3600.0, *, states: tuple[str, ...] = ENDED) -> Job:
    """The job once it is in one of the states, or as it is after so many seconds."""
    until = time.monotonic() + seconds
    with self._lock:
      while self._known(job).state not in states and (left := until - time.monotonic()) > 0:
        self._changed.wait(left)
      return dataclasses.replace(self._known(job))

  @property
  def worker_id(self) -> int | None:
    """The number of the worker process, or None where none runs."""
    return self._worker.process_id

  # --- what goes on by itself ---

  @property
  def _keep(self) -> float:
    return 3600 * self.settings.keep_hours

  def _known(self, job: object) -> Job:
    if not is_id(job) or job not in self._jobs:
      raise Unknown(f'there is no job {told(job)[:40]!r}; it was deleted, or its time is over')
    return self._jobs[job]

  def _take_up(self, job: Job) -> None:
    """A job of an earlier server: one that waited waits again; one that ran runs again, but not for
    ever."""
    if job.state == RUNNING:
      jobs.remove_results(self._folder / job.id)
      if job.attempts >= _ATTEMPTS:
        return self._end(
          job,
          FAILED,
          f'the server was ended {job.attempts} times while it computed this: try a smaller size '
          'or a '
          'shorter clip',
        )
      job.state, job.started = QUEUED, None
      self._save(job)
      self._queue.appendleft(job.id)
    elif job.state == QUEUED:
      self._queue.append(job.id)

  def _work(self) -> None:
    while True:
      with self._lock:
        while not self._queue and not self._leaving:
          if self._forget:
            self._forget = False
            self._worker.tell({'do': 'forget'})
          self._changed.wait()
        if self._leaving:
          return
        job = self._jobs[self._queue.popleft()]
        job.state, job.started, job.attempts, self._running = (
          RUNNING,
          time.time(),
          job.attempts + 1,
          job.id,
        )
        self._save(job)
        self._changed.notify_all()
      state = FAILED
      try:
        state, words = self._run(job)
      except (UserError, Died) as error:
        words = told(error)
      except Exception as error:  # the job's failure; the queue goes on
        words = told(f'an error of the server: {type(error).__name__}: {error}')
      with self._lock:
        self._running = None
        if self._leaving and state != DONE:  # the next server takes it up
          job.state, job.attempts, job.started = QUEUED, job.attempts - 1, None
          jobs.remove_results(self._folder / job.id)
          self._save(job)
        else:
          self._end(job, state, words)
        self._changed.notify_all()

  def _run(self, job: Job) -> tuple[str, str]:
    """Lets the worker do a job; returns how it ended."""
    folder = self._folder / job.id
    only = lambda name: next((folder / name).iterdir())
    options = self._with_files(job, only)
    self._worker.send(
      {
        'do': job.kind,
        'job': job.id,
        'folder': str(folder),
        'portrait': str(only('portrait')),
        'driving': str(only('driving')) if job.driving else None,
        'engine': job.engine,
        'loading': self._loading[job.engine],
        'options': options,
        'max_frames': self.settings.max_frames,
        'preview': job.preview,
      }
    )
    heard, asked = time.monotonic(), None
    while True:
      try:
        report = self._worker.receive(_TICK)
      except Silent:
        now = time.monotonic()
        asked = (asked or now) if job.cancelling else None
        if (
          job.cancelling
          and now - asked > self.settings.patience
          or now - heard > self.settings.silence
        ):
          self._worker.end()
          if not job.cancelling:
            return (
              FAILED,
              f'the process that computed it reported nothing for {self.settings.silence:g} s and '
              'was ended: try again',
            )
        continue
      except Died as error:
        if job.cancelling:
          return CANCELLED, ''
        return FAILED, (
          f'the process that computed it {error}: the others in the queue go on in a new one; try '
          'again, with a '
          'smaller size or a shorter clip if it happens again'
        )
      heard = time.monotonic()
      if (ended := self._hear(job, report)) is not None:
        return ended

  def _with_files(self, job: Job, only) -> dict:
    """The options with the paths of the job's own files in place of ids."""
    swap = lambda value: str(only(f'files/{value}')) if is_id(value) else value
    return {
      name: {key: swap(v) for key, v in value.items()} if isinstance(value, dict) else swap(value)
      for name, value in job.options.items()
    }

  def _hear(self, job: Job, report: dict) -> tuple[str, str] | None:
    """Takes a report in; how the job ended, if it is the last."""
    kind = report.get('report')
    with self._lock:
      if kind == 'progress':
        job.stage, job.done, job.total, job.remaining = (
          report[name] for name in ('stage', 'done', 'total', 'remaining')
        )
      elif kind == 'warning' and report['words'] not in job.warnings:
        job.warnings.append(report['words'])
      if job.cancelling and kind == 'progress':
        # it may have been asked before the job had come
        self._worker.tell({'do': 'cancel', 'job': job.id})
      self._changed.notify_all()
    return {
      'done': (DONE, ''),
      'cancelled': (CANCELLED, ''),
      'failed': (FAILED, report.get('words', '')),
    }.get(kind)

  def _end(self, job: Job, state: str, words: str = '') -> None:
    """Writes down how a job ended; results of one that is not done are taken away, and the inputs
    of all."""
    folder, now = self._folder / job.id, time.time()
    if state != DONE:
      jobs.remove_results(folder)
    jobs.remove_inputs(folder)
    job.state, job.words, job.ended, job.expires, job.cancelling = (
      state,
      words,
      now,
      now + self._keep,
      False,
    )
    job.stage, job.done, job.total, job.remaining = '', 0, None, None
    self._save(job)
    self._changed.notify_all()

  def _save(self, job: Job) -> None:
    with contextlib.suppress(OSError):  # a full disk does not stop the queue
      jobs.save(self._folder / job.id, job)

  def _forget_soon(self) -> None:
    self._forget = True
    self._changed.notify_all()

  def sweep(self, now: float | None = None) -> None:
    """Deletes uploads and jobs whose time is over."""
    now = time.time() if now is None else now
    gone = self.uploads.sweep(now)
    self.sessions.sweep()
    with self._lock:
      for job in [job for job in self._jobs.values() if job.state in ENDED and job.expires <= now]:
        remove_folder(self._folder / job.id)
        del self._jobs[job.id]
        gone += 1
      if gone:
        self._forget_soon()

  def _sweep_always(self) -> None:
    while True:
      with self._lock:
        if self._leaving:
          return
        self._changed.wait_for(lambda: self._leaving, min(_SWEEP, self._keep / 4))
      if not self._leaving:
        with contextlib.suppress(OSError):
          self.sweep()
