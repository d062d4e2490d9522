"""Runs inside the MediaPipe environment (.venv-mediapipe); never imported by exp_jax.

MediaPipe 0.10.21 is the last release whose wheel carries its models, and it needs an older numpy
and protobuf than JAX does, so it lives in a process of its own. It reads requests from standard
input and answers on the descriptor given as the first argument:

  request   8 bytes, little-endian uint32 height and width, then height * width * 3 bytes RGB
  answer    4 bytes uint32 number of faces, then float32 [faces, 478, 3] (x, y in pixels; z in pixels of the
            same scale, negative towards the camera), then float32 [faces] detection scores,
            then uint8 [height, width] person matte (0 when there is no face)

Each face is found at full range, cut out as a square of 2.2 times its box, and landmarked there, so
that small faces get as many pixels as large ones. Where the whole picture shows no face, parts of
it are searched.
"""

import os
import struct
import sys

import cv2
import mediapipe
import numpy as np
from face_tiles import (
  tile_levels,
)  # the file beside this one; exp_jax itself is not importable here

_CROP = 2.2  # side of the landmark crop, in detector boxes
_CROP_PIXELS = 512
_SCORE = 0.6  # of a detection in the whole picture
_SCORE_OF_TILES = 0.75  # of one in a part of it: there are many of them, each of which could err


def _square_crop(image, center, side):
  """Cuts [side, side] about `center`, black outside; returns crop resized and its 2x3 pixel map."""
  scale = _CROP_PIXELS / side
  matrix = np.float32(
    [
      [scale, 0, _CROP_PIXELS / 2 - scale * center[0]],
      [0, scale, _CROP_PIXELS / 2 - scale * center[1]],
    ]
  )
  mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
  return cv2.warpAffine(image, matrix, (_CROP_PIXELS, _CROP_PIXELS), flags=mode), matrix


def _best_first(found):
  """Boxes by size times score, without those that lie on a better one."""
  kept = []
  for center, size, score in sorted(found, key=lambda f: -f[1] * f[2]):
    if all(np.abs(center - other[0]).max() > 0.5 * size for other in kept):
      kept.append((center, size, score))
  return kept


class Worker:
  """MediaPipe's detectors and networks, loaded once for all pictures of a process."""

  def __init__(self):
    solutions = mediapipe.solutions
    self.detectors = [
      solutions.face_detection.FaceDetection(model_selection=m, min_detection_confidence=_SCORE)
      for m in (1, 0)
    ]
    self.mesh = solutions.face_mesh.FaceMesh(
      static_image_mode=True, refine_landmarks=True, max_num_faces=1, min_detection_confidence=0.3
    )
    self.selfie = solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)

  def boxes(self, image):
    """[(center xy, side, score)] in pixels, best first; tries both detectors."""
    return _best_first(self._detect(image, 0, 0, max(image.shape[:2]), _SCORE))

  def _detect(self, image, top, left, side, least):
    """Boxes of a square part, which may reach beyond the picture, in pixels of the whole."""
    part = image[top : top + side, left : left + side]
    square = np.zeros((side, side, 3), np.uint8)
    square[: part.shape[0], : part.shape[1]] = part
    found = []
    for detector in self.detectors:
      for detection in detector.process(square).detections or []:
        box = detection.location_data.relative_bounding_box
        center = np.array([box.xmin + box.width / 2, box.ymin + box.height / 2]) * side + [
          left,
          top,
        ]
        if detection.score[0] >= least:
          found.append((center, max(box.width, box.height) * side, float(detection.score[0])))
    return found

  def landmarks(self, image, center, side):
    """[478, 3] pixels of one face, or None. Refined once on a crop centred on the first result."""
    points = None
    for _ in range(2):
      crop, matrix = _square_crop(image, center, side)
      result = self.mesh.process(crop).multi_face_landmarks
      if not result:
        return points
      points = np.array([(p.x, p.y, p.z) for p in result[0].landmark], np.float32) * _CROP_PIXELS
      points[:, :2] = (points[:, :2] - matrix[:, 2]) / matrix[0, 0]
      points[:, 2] /= matrix[0, 0]
      low, high = points[:, :2].min(0), points[:, :2].max(0)
      center, side = (low + high) / 2, 1.6 * (high - low).max()
    return points

  def faces(self, image, boxes):
    """Landmarks and scores of the boxes that show a face."""
    found = [(self.landmarks(image, center, _CROP * size), score) for center, size, score in boxes]
    return [points for points, _ in found if points is not None], [
      score for points, score in found if points is not None
    ]

  def small_faces(self, image):
    """`faces` of the first level of tiles that has any."""
    for tiles in tile_levels(*image.shape[:2]):
      found = [
        box
        for top, left, side in tiles
        for box in self._detect(image, top, left, side, _SCORE_OF_TILES)
      ]
      faces, scores = self.faces(image, _best_first(found))
      if faces:
        return faces, scores
    return [], []

  def answer(self, image):
    faces, scores = self.faces(image, self.boxes(image))
    if not faces:
      faces, scores = self.small_faces(image)
    matte = np.zeros(image.shape[:2], np.uint8)
    if faces:
      matte = np.uint8(np.rint(255 * np.clip(self.selfie.process(image).segmentation_mask, 0, 1)))
    return np.float32(faces).reshape(-1, 478, 3), np.float32(scores), matte


def main():
  source, sink = sys.stdin.buffer, os.fdopen(int(sys.argv[1]), 'wb')
  worker = Worker()
  while header := source.read(8):
    height, width = struct.unpack('<II', header)
    image = np.frombuffer(source.read(height * width * 3), np.uint8).reshape(height, width, 3)
    faces, scores, matte = worker.answer(np.ascontiguousarray(image))
    sink.write(struct.pack('<I', len(faces)) + faces.tobytes() + scores.tobytes() + matte.tobytes())
    sink.flush()


if __name__ == '__main__':
  main()
