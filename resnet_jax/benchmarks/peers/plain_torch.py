"""PyTorch's sides: eager or with `torch.compile`, both NHWC in memory (`channels_last`)."""

import time
from typing import Any

from resnet_jax.benchmarks.peers.repeated import repeat
from resnet_jax.benchmarks.peers.task import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, PeerTask
from resnet_jax.benchmarks.peers.torch_resnet import TorchResNet, torch
from resnet_jax.benchmarks.work import Work


def eager(task: PeerTask) -> Work:
  """Builds training or inference of one batch in eager mode."""
  return _work(task, lambda model: model)


def compiled(task: PeerTask) -> Work:
  """Builds training or inference of one batch, with the network compiled by `torch.compile`."""
  return _work(task, torch.compile)


def _work(task: PeerTask, prepare: Any) -> Work:
  begun = time.perf_counter()
  torch.manual_seed(0)
  torch.set_num_threads(task.threads)
  on_gpu = torch.cuda.is_available()
  device = torch.device("cuda" if on_gpu else "cpu")
  # The same precision as JAX's default on such hardware.
  torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  model = TorchResNet(task).to(device, memory_format=torch.channels_last)
  images = torch.randn(task.batch_size, 3, task.image_size, task.image_size, device=device)
  images = images.contiguous(memory_format=torch.channels_last)
  labels = torch.randint(0, task.num_classes, (task.batch_size,), device=device)
  facts = {
    "platform": "gpu" if on_gpu else "cpu",
    "devices": f"1 x {torch.cuda.get_device_name() if on_gpu else 'cpu'}",
    "parameters": sum(parameter.numel() for parameter in model.parameters()),
    "setup_seconds": time.perf_counter() - begun,
  }
  network = prepare(model)
  autocast = torch.autocast(device.type, torch.bfloat16, enabled=task.dtype == "bfloat16")
  optimizer = torch.optim.SGD(
    model.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY
  )
  training = task.mode == "training"
  model.train(training)

  def train() -> Any:
    optimizer.zero_grad(set_to_none=True)
    with autocast:
      loss = torch.nn.functional.cross_entropy(network(images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()

  def classify() -> Any:
    with torch.inference_mode(), autocast:
      return network(images)

  def launch() -> tuple[Any, Any]:
    result = train() if training else classify()
    if not on_gpu:
      return result, None
    event = torch.cuda.Event()
    event.record()
    return result, event

  def wait(step: tuple[Any, Any]) -> None:
    if on_gpu:
      step[1].synchronize()

  return repeat(
    launch=launch,
    wait=wait,
    loss=lambda step: float(step[0]) if training else None,
    images=task.batch_size,
    facts=facts,
    device_memory=torch.cuda.max_memory_allocated if on_gpu else lambda: 0,
    settle=torch.cuda.synchronize if on_gpu else lambda: None,
  )
