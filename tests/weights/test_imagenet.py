"""The names of ImageNet's classes."""

from resnet_jax.weights.imagenet import imagenet_class_names, imagenet_synsets


def test_every_class_has_a_name_of_its_own():
  names = imagenet_class_names()
  assert len(names) == len(set(names)) == 1000
  assert all(name and name == name.strip() for name in names)
  assert (names[0], names[999].split(",")[0]) == ("tench, Tinca tinca", "toilet tissue")


def test_synsets_are_in_the_order_of_their_numbers():
  synsets = imagenet_synsets()
  assert len(synsets) == 1000
  assert list(synsets) == sorted(set(synsets))


def test_names_stand_at_the_labels_of_pictures_that_are_called_so(test_data):
  folder = test_data / "imagenet_samples"
  names, synsets = imagenet_class_names(), imagenet_synsets()
  assert list(synsets) == (folder / "synsets.txt").read_text().split()
  files = sorted(folder.glob("*.JPEG"))
  assert files
  for file in files:
    synset, _, word = file.stem.partition("_")
    assert word.replace("_", " ") in names[synsets.index(synset)]
