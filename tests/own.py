"""Own data drawn for tests: what users have in their folders, small."""

import json

import numpy as np
import trimesh
from PIL import Image

from keras_dl.ops.rays import camera_rays, orbit_cameras

SHAPES = ("bar", "ring")
# Of scenes: the place of the ball and the unit of the user's world, and the angle of the camera.
MIDDLE, SCALE = np.array([7.0, -2.0, 3.0]), 2.5
ANGLE = 0.9


def picture(shape, seed, sides=(20, 20), mode="RGB"):
    """A bright bar or ring on a dark ground."""
    random = np.random.default_rng(seed)
    height, width = sides
    y, x = np.mgrid[:height, :width]
    radius = np.hypot((y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5)
    inside = np.abs(x - width / 2) < width / 6 if shape == "bar" else (radius > 0.25) & (radius < 0.42)
    image = random.integers(0, 60, (height, width, 3)) + inside[..., None] * random.integers(120, 180, 3)
    return Image.fromarray(image.astype("uint8")).convert(mode)


def write_coco(folder, count=10, sides=lambda i: (40 + i, 60 - i), start=0, name="annotations.json", images="images"):
    """Images of one bright rectangle each, or of none for every fifth, and COCO's JSON. Returns the document."""
    (folder / images).mkdir(parents=True, exist_ok=True)
    document = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "tall"}, {"id": 3, "name": "wide"}]}
    document["categories"].append({"id": 9, "name": "unused"})
    for i in range(start, start + count):
        random, (height, width) = np.random.default_rng(i), sides(i)
        image = random.integers(0, 60, (height, width, 3)).astype("uint8")
        document["images"].append({"id": i, "file_name": f"{i:03d}.png", "height": height, "width": width})
        if i % 5 < 4:
            h, w = (20, 8) if i % 2 else (8, 20)
            y, x = int(random.integers(0, height - h)), int(random.integers(0, width - w))
            image[y : y + h, x : x + w] = random.integers(150, 255, 3)
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            entry = {"id": i, "image_id": i, "category_id": 7 if i % 2 else 3, "bbox": [x, y, w, h], "iscrowd": 0}
            document["annotations"].append(entry | {"segmentation": [polygon], "area": h * w})
        Image.fromarray(image).save(folder / images / f"{i:03d}.png")
    (folder / name).write_text(json.dumps(document))
    return document


def write_masks(folder, count=10, values=(0, 1), sides=lambda i: (40 + i, 48)):
    """Images of a bright rectangle, and masks of it."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        random, (height, width) = np.random.default_rng(i), sides(i)
        y, x = random.integers(0, height - 16), random.integers(0, width - 16)
        inside = np.zeros((height, width), bool)
        inside[y : y + 16, x : x + 16] = True
        image = np.where(inside[..., None], random.integers(150, 255, 3), random.integers(0, 60, (height, width, 3)))
        Image.fromarray(image.astype("uint8")).save(folder / "images" / f"{i}.png")
        mask = np.where(inside, values[1 + i % (len(values) - 1)], values[0])
        Image.fromarray(mask.astype("uint8")).save(folder / "masks" / f"{i}.png")
    return folder


def series(kind, seed, channels=2):
    """A slow or a fast wave, 12 to 15 steps: `(steps, channels)`."""
    random = np.random.default_rng(seed)
    steps = np.arange(12 + seed % 4)
    wave = np.sin(steps * (0.5 if kind == "slow" else 1.5) + random.uniform(0, 6))
    return np.stack([wave * (i + 1) for i in range(channels)], -1) + random.normal(0, 0.05, (len(steps), channels))


def write_series(folder, count=10):
    """A CSV file for each series, in folders by class."""
    for kind in ("fast", "slow"):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            rows = [",".join(f"{x:.4f}" for x in row) for row in series(kind, i)]
            (folder / kind / f"{i}.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    return folder


def write_clouds(folder, count=5):
    """Balls as arrays, and boxes as meshes of the format OFF."""
    for kind in ("ball", "box"):
        (folder / kind).mkdir(parents=True)
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    faces = ["0 1 3 2", "4 6 7 5", "0 4 5 1", "2 3 7 6", "0 2 6 4", "1 5 7 3"]
    for i in range(count):
        random = np.random.default_rng(i)
        points = random.normal(size=(300, 3))
        np.save(folder / f"ball/{i}.npy", 5 + points / np.linalg.norm(points, axis=1, keepdims=True))
        lines = ["OFF", "8 6 0", *(" ".join(map(str, x)) for x in corners * random.uniform(1, 3, 3))]
        (folder / f"box/{i}.off").write_text("\n".join([*lines, *(f"4 {face}" for face in faces)]) + "\n")
    return folder


def table(rows=60, seed=0):
    """Lines of a table: two numbers and a category that decide a class, and a value that follows from them."""
    random = np.random.default_rng(seed)
    lines = ["height,width,soil,kind,weight"]
    for _ in range(rows):
        height, width, soil = random.uniform(1, 9), random.uniform(100, 300), random.choice(["clay", "sand"])
        kind = "tall" if height > 5 else "broad" if soil == "clay" else "short"
        lines.append(f"{height:.2f},{width:.1f},{soil},{kind},{height * width / 100 + (soil == 'clay'):.3f}")
    return lines


def write_pictures(folder, count=10, names=SHAPES, sides=(20, 20), mode="RGB", suffix="png"):
    """A folder for each class with pictures of it."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            of = sides(i) if callable(sides) else sides
            picture(SHAPES[names.index(name) % 2], i, of, mode).save(folder / name / f"{i:02d}.{suffix}")
    return folder


def write_graph(folder, count=40, split=False):
    """Two circles of people, tied to their neighbors; every tenth has no known club."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    lines = ["name,age,town,club" + ",split" * split]
    for i in range(count):
        club = "chess" if i < count // 2 else "choir"
        given = ("test" if i % 3 == 0 else "train") if i % 10 else ""
        age = 30 + 20 * (club == "choir") + random.normal(0, 8)
        lines.append(f"p{i},{age:.1f},{'north' if i % 2 else 'south'},{club if i % 10 else ''}" + f",{given}" * split)
    (folder / "nodes.csv").write_text("\n".join(lines) + "\n")
    half = count // 2
    ties = [(i, half * (i // half) + (i + step) % half) for i in range(count) for step in (1, 2)]
    lines = ["from,to,since", *(f"p{a},p{b},1999" for a, b in ties), "p1,p0,2000", "p3,p3,2000"]
    (folder / "edges.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_scene(folder, count=10, name="transforms.json", size=(24, 32), mode="RGB", **others):
    """Views of a bright ball on a dark ground from around, in a world of their own. Returns their cameras."""
    (folder / "images").mkdir(exist_ok=True)
    cameras = np.asarray(orbit_cameras(count, radius=3.0, height=1.0), "float64")
    cameras[:, :, 3] = SCALE * cameras[:, :, 3] + MIDDLE
    focal, frames = 0.5 * size[1] / np.tan(0.5 * ANGLE), []
    for i, camera in enumerate(cameras):
        origins, directions = (np.asarray(x, "float64") for x in camera_rays(camera.astype("float32"), focal, size))
        toward = MIDDLE - origins
        along = (toward * directions).sum(-1) / np.linalg.norm(directions, axis=-1)
        seen = (toward**2).sum(-1) - along**2 < (0.6 * SCALE) ** 2
        image = np.where(seen[..., None], [220, 120, 40], [20, 30, 60]).astype("uint8")
        file = f"images/{name}-{i}.png"
        Image.fromarray(image).convert(mode).save(folder / file)
        frames.append({"file_path": file, "transform_matrix": [*camera.tolist(), [0, 0, 0, 1]]})
    (folder / name).write_text(json.dumps({"camera_angle_x": ANGLE, "frames": frames} | others))
    return cameras


def write_forms(folder):
    """Small data in the forms of docs/own_data.md, under the names that the page gives them."""
    folder.mkdir(exist_ok=True)
    write_pictures(folder / "photos", 12)
    (folder / "plants.csv").write_text("\n".join(table()) + "\n")
    write_coco(folder / "street", 20)
    write_masks(folder / "cells", 20)
    write_series(folder / "waves", 10)
    (folder / "verses.txt").write_text("".join(f"and verse {i} of all\n" for i in range(40)))
    (folder / "pairs.tsv").write_text("".join(f"number {i}\tNummer {i}\n" for i in range(40)))
    write_clouds(folder / "solids", 10)
    write_domains(folder / "animals", {"horse": 10, "zebra": 10}, (24, 20))
    write_solids(folder / "meshes", 12)
    write_graph(folder / "people")
    (folder / "statue").mkdir()
    write_scene(folder / "statue", 10)
    return folder


def write_domains(folder, counts, sides=(20, 20), suffix="png"):
    """A folder of bars or of rings for each set. `counts`: dict of the number of pictures by folder; bars first."""
    for shape, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture(SHAPES[shape % 2], i, sides).save(folder / name / f"{i:02d}.{suffix}")
    return folder


CORNERS = np.array([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)])
# Triangles, counterclockwise as seen from outside.
SIDES = "013 032 467 475 045 051 237 276 026 064 157 173"
CUBOID = np.array([[int(corner) for corner in side] for side in SIDES.split()])


def cuboid(seed):
    """A closed box anywhere: `(vertices, faces)`."""
    random = np.random.default_rng(seed)
    return CORNERS * random.uniform(1, 3, 3) + random.uniform(-9, 9, 3), CUBOID


def write_mesh(path, vertices, faces):
    """A mesh in the format of its suffix, by trimesh. STL has no shared vertices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    trimesh.Trimesh(vertices, faces, process=False).export(path)
    return path


def write_solids(folder, count=8, suffixes=(".ply", ".off", ".obj", ".stl", ".glb")):
    """Closed boxes in files of several formats."""
    for i in range(count):
        write_mesh(folder / f"{i}{suffixes[i % len(suffixes)]}", *cuboid(i))
    return folder
