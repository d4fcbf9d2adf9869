"""A few JPEGs packed as the two archives of ILSVRC2012 that tfds's `imagenet2012` builder reads."""

import io
import pathlib
import tarfile


def make_imagenet_tars(
  samples_dir: pathlib.Path, out_dir: pathlib.Path, train: int, validation: int
) -> None:
  """Writes ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar.

  Args:
    samples_dir: Holds JPEGs named WNID_anything.JPEG.
    out_dir: Where the archives go; made if need be.
    train: How many of them, from the first by name, make the training archive.
    validation: How many of the following make the validation archive. Its labels come with tfds,
      by number, and do not fit the pictures.
  """
  files = sorted(samples_dir.glob("*.JPEG"))
  out_dir.mkdir(parents=True, exist_ok=True)
  by_wnid: dict[str, list[pathlib.Path]] = {}
  for file in files[:train]:
    by_wnid.setdefault(file.name.split("_")[0], []).append(file)
  with tarfile.open(out_dir / "ILSVRC2012_img_train.tar", "w") as archive:
    for wnid, members in by_wnid.items():
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode="w") as tar:
        for i, file in enumerate(members):
          tar.add(file, arcname=f"{wnid}_{i}.JPEG")
      info = tarfile.TarInfo(f"{wnid}.tar")
      info.size = len(inner.getvalue())
      inner.seek(0)
      archive.addfile(info, inner)
  with tarfile.open(out_dir / "ILSVRC2012_img_val.tar", "w") as archive:
    for i, file in enumerate(files[train : train + validation], 1):
      archive.add(file, arcname=f"ILSVRC2012_val_{i:08d}.JPEG")
