"""Runs inside the MediaPipe environment (.venv-mediapipe); never imported by exp_jax.

MediaPipe 0.10.21 is the last release whose wheel carries its models, and it needs an older numpy and protobuf
than JAX does, so it lives in a process of its own. It reads requests from standard input and answers on the
descriptor given as the first argument:

  request   8 bytes, little-endian uint32 height and width, then height * width * 3 bytes RGB
  answer    4 bytes uint32 number of faces, then float32 [faces, 478, 3] (x, y in pixels; z in pixels of the
            same scale, negative towards the camera), then float32 [faces] detection scores,
            then uint8 [height, width] person matte (0 when there is no face)

Each face is found at full range, cut out as a square of 2.2 times its box, and landmarked there, so that small
faces get as many pixels as large ones.
"""

import os
import struct
import sys

import cv2
import mediapipe
import numpy as np

_CROP = 2.2          # side of the landmark crop, in detector boxes
_CROP_PIXELS = 512


def _square_crop(image, center, side):
  """Cuts [side, side] about `center`, black outside; returns crop resized and its 2x3 pixel map."""
  scale = _CROP_PIXELS / side
  matrix = np.float32([[scale, 0, _CROP_PIXELS / 2 - scale * center[0]],
                       [0, scale, _CROP_PIXELS / 2 - scale * center[1]]])
  mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
  return cv2.warpAffine(image, matrix, (_CROP_PIXELS, _CROP_PIXELS), flags=mode), matrix


class Worker:

  def __init__(self):
    solutions = mediapipe.solutions
    self.detectors = [solutions.face_detection.FaceDetection(model_selection=m, min_detection_confidence=0.6)
                      for m in (1, 0)]
    self.mesh = solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True, max_num_faces=1,
                                             min_detection_confidence=0.3)
    self.selfie = solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)

  def boxes(self, image):
    """[(center xy, side, score)] in pixels, best first; tries both detectors, then a centred half."""
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, 3), np.uint8)
    square[:height, :width] = image
    found = []
    for detector in self.detectors:
      for detection in detector.process(square).detections or []:
        box = detection.location_data.relative_bounding_box
        center = np.array([box.xmin + box.width / 2, box.ymin + box.height / 2]) * side
        size = max(box.width, box.height) * side
        if all(np.abs(center - other[0]).max() > 0.5 * size for other in found):
          found.append((center, size, float(detection.score[0])))
    return sorted(found, key=lambda f: -f[1] * f[2])

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

  def answer(self, image):
    faces, scores = [], []
    for center, size, score in self.boxes(image):
      points = self.landmarks(image, center, _CROP * size)
      if points is not None:
        faces.append(points)
        scores.append(score)
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
