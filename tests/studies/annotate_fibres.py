"""Turn the label images and stages of the real fibres into GeoJSON annotations.

python tests/studies/annotate_fibres.py --data FOLDER --out results/fibres/annotations
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import approximate_polygon, find_contours, regionprops

FIELDS = ("fibres_01", "fibres_02", "fibres_03")
TOLERANCE_PX = 0.5


def annotate(masks: np.ndarray, stages: dict[int, str]) -> dict[str, object]:
    """A FeatureCollection of the outlines in px of ``masks`` (origin: the corner of the first pixel).

    Parameters
    ----------
    masks : integer array [h, w]
        Label image, 0 is background.
    stages : dict
        Label -> stage; an outline of any other label carries none.
    """
    features = []
    for region in regionprops(masks):
        padded = np.pad(region.image, 1)
        contour = max(find_contours(padded.astype(float), 0.5), key=len)
        # from pixel centres of the padded box to corners of the image: -1 + 0.5
        outline = approximate_polygon(contour, TOLERANCE_PX) - 0.5 + np.array(region.bbox[:2])
        properties: dict[str, object] = {"objectType": "annotation", "mask": int(region.label)}
        if region.label in stages:
            properties["classification"] = {"name": stages[region.label]}
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [outline[:, ::-1].round(2).tolist()]},
                "properties": properties,
            }
        )
    return {"type": "FeatureCollection", "features": features}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds muscle-fibres/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the annotations")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for field in FIELDS:
        folder = arguments.data / "muscle-fibres"
        masks = np.asarray(Image.open(folder / f"{field}_masks.png")).astype(np.int32)
        with (folder / f"{field}_labels.csv").open(encoding="utf-8") as stream:
            stages = {int(row["mask_id"]): row["stage"] for row in csv.DictReader(stream)}
        out = arguments.out / f"{field}.geojson"
        out.write_text(json.dumps(annotate(masks, stages)), encoding="utf-8")
        print(f"{out}: {len(np.unique(masks)) - 1} outlines, {len(stages)} with a stage")


if __name__ == "__main__":
    main()
