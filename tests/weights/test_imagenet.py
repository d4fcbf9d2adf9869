"""The names of ImageNet's classes."""

from resnet_jax.weights.imagenet import imagenet_class_names


def test_every_class_has_a_name_of_its_own():
  names = imagenet_class_names()
  assert len(names) == len(set(names)) == 1000
  assert all(name and name == name.strip() for name in names)
  assert (names[0], names[999].split(",")[0]) == ("tench, Tinca tinca", "toilet tissue")


def test_names_stand_at_the_labels_of_pictures_that_are_called_so(test_data):
  folder = test_data / "imagenet_samples"
  synsets = (folder / "synsets.txt").read_text().split()
  names = imagenet_class_names()
  files = sorted(folder.glob("*.JPEG"))
  assert files
  for file in files:
    synset, _, word = file.stem.partition("_")
    assert word.replace("_", " ") in names[synsets.index(synset)]
