"""Find in which direction of w a head turns; write directions.npz.

Input: a CSV of landmarks with one row a picture number (columns number, x0, y0 .. x4, y4: right
eye, left eye, nose, right and left mouth corner) for pictures drawn as people.py draws them.

Yaw is regressed on w by ridge regression. The direction stored is the covariance of w with the
fitted yaw, which stays where w really varies (the bare coefficients point out of it), made
independent of the mouth's width, so that turning brings no smile, and scaled to 1 unit of yaw a
unit of step.

    python directions.py landmarks.csv mean_w.npy
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import openvino
from people import DIRECTIONS, TRUNCATION, _weights_folder

RIDGE = 3e-3  # of the mean variance of a coordinate of w


def measures(row: dict[str, str]) -> tuple[float, float]:
    """Yaw (nose x against the eyes' midpoint) and mouth width, both in eye distances."""
    x = [float(row[f"x{i}"]) for i in range(5)]
    y = [float(row[f"y{i}"]) for i in range(5)]
    eyes = np.hypot(x[1] - x[0], y[1] - y[0])
    return (x[2] - (x[0] + x[1]) / 2) / eyes, (x[4] - x[3]) / eyes


def main(landmarks: Path, mean_file: Path) -> None:
    rows = list(csv.DictReader(landmarks.open()))
    mean = np.load(mean_file).reshape(1, 512).astype(np.float32)
    mapping = openvino.Core().compile_model(_weights_folder() / "MappingNetwork.xml", "CPU")
    seeds = [int(row["number"]) for row in rows]
    z = [np.random.default_rng(seed).normal(size=(1, 512)).astype(np.float32) for seed in seeds]
    w = np.concatenate([TRUNCATION * (mapping([row])[0] - mean) for row in z]).astype(float)
    targets = np.array([measures(row) for row in rows])
    w -= w.mean(0)
    targets -= targets.mean(0)
    gram = w.T @ w / len(w)
    ridge = RIDGE * np.trace(gram) / 512 * np.eye(512)
    coefficients = np.linalg.solve(gram + ridge, w.T @ targets / len(w))  # 512 x 2
    explained = 1 - ((targets - w @ coefficients) ** 2).mean(0) / targets.var(0)
    covariances = gram @ coefficients
    # Columns such that a step along one moves its own fitted measure by 1 and the other by 0.
    directions = covariances @ np.linalg.inv(coefficients.T @ covariances)
    yaw = directions[:, 0][None].astype(np.float32)
    np.savez(DIRECTIONS, mean=mean, yaw=yaw)
    print(
        f"{len(rows)} pictures; variance of yaw explained: {explained[0]:.2f}; length of one "
        f"unit: {np.linalg.norm(yaw):.1f}, of a face: {np.linalg.norm(w, axis=1).mean():.1f}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
