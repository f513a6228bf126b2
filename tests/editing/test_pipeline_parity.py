"""The editor without a mask is Stable Diffusion with ControlNets: whole samplings against the pipeline of diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from daag_jax.editing.controls import ControlConfig
from daag_jax.editing.editor import make_editor
from daag_jax.editing.editor_config import Clip, EditorConfig
from daag_jax.editing.noise import frame_noise
from daag_jax.editing.pretrained import load_pretrained
from daag_jax.editing.steering import condition

pytestmark = pytest.mark.oracle

SIZE, FRAMES, STEPS = 64, 2, 20
# the layer types of Stable Diffusion 1.5, narrow
TRUNK = {
    "block_out_channels": (16, 16, 32, 32),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "attention_head_dim": 4,
    "cross_attention_dim": 16,
    "norm_num_groups": 8,
}
TEXT = {
    "vocab_size": 9,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 6,
    "bos_token_id": 7,
    "eos_token_id": 8,
    "pad_token_id": 8,
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
WORDS = ["a", "red", "green", "blue", "block", "table", "<unk>", "<|startoftext|>", "<|endoftext|>"]
CASES = {  # ours, the scheduler's class and options there, options of the call there
    "ddim": (
        {"method": "ddim", "spacing": "leading"},
        ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
        {},
    ),
    "dpm_solver": ({"method": "dpm_solver_2m", "spacing": "linspace"}, ("DPMSolverMultistepScheduler", {}), {}),
    "weights_and_spans": (
        {"method": "ddim", "spacing": "leading", "control": (0.5, 1.5), "control_span": (0.2, 0.7)},
        ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
        {
            "controlnet_conditioning_scale": [0.5, 1.5],
            "control_guidance_start": 0.2,
            "control_guidance_end": 0.7,
        },
    ),
    "guess_mode": (
        {"method": "ddim", "spacing": "leading", "guess": True},
        ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
        {"guess_mode": True},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Random networks of diffusers, and the folders that they were saved to."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    unet = diffusers.UNet2DConditionModel(**TRUNK, up_block_types=up, sample_size=8)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, norm_num_groups=4,
        latent_channels=4, sample_size=SIZE,
    )  # fmt: skip
    controlnets = [
        diffusers.ControlNetModel(**TRUNK, conditioning_embedding_out_channels=(4, 8, 8, 16))
        for _ in range(2)
    ]
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT))
    with torch.no_grad():
        for network in (unet, vae, text, *controlnets):
            network.eval()
            for parameter in network.parameters():  # no layer is zero, as those of a new ControlNet
                parameter.add_(0.05 * torch.randn(parameter.shape))
    root = tmp_path_factory.mktemp("pipeline")
    for name, network in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        network.save_pretrained(root / name)
    for name, network in zip(("depth", "edges"), controlnets, strict=True):
        network.save_pretrained(root.parent / name)
    (root / "tokenizer").mkdir()
    words = models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = ("<|endoftext|>", 8), ("<|startoftext|>", 7)
    tokenizer.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=False)
    tokenizer.save(str(root / "tokenizer" / "tokenizer.json"))
    return root, (unet, vae, text, controlnets)


def clip() -> Clip:
    """Two frames with shapes in them; all of it is background."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    disc = (rows - 30) ** 2 + (columns - 24) ** 2 < 15**2
    rgb = np.stack([np.where(disc[..., None], [240, 210, 60], [60, 80, 120])] * FRAMES)
    rgb[1] = np.roll(rgb[1], 9, axis=1)
    depth = np.where(disc, 0.6, 0.6 + 0.4 * rows / SIZE)[None].repeat(FRAMES, 0)
    return Clip(
        jnp.asarray(rgb, jnp.uint8)[None],
        jnp.asarray(depth, jnp.float32)[None],
        jnp.zeros((1, FRAMES, SIZE, SIZE, 3)),
        jnp.zeros((1, FRAMES, SIZE, SIZE), jnp.int32),
    )


def theirs(networks, scheduler, options, images, noise) -> np.ndarray:
    """The frames of diffusers' pipeline with the same noise and the same conditions."""
    import diffusers
    import torch

    unet, vae, text, controlnets = networks
    name, config = scheduler
    pipeline = diffusers.StableDiffusionControlNetPipeline(
        vae=vae, text_encoder=text, tokenizer=None, unet=unet,
        controlnet=diffusers.MultiControlNetModel(controlnets),
        scheduler=getattr(diffusers, name)(**BETAS, **config),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    tensor = lambda x: torch.from_numpy(np.moveaxis(np.array(x), -1, 1).copy())
    ids = torch.tensor([[7, 0, 1, 4, 8, 8], [7, 8, 8, 8, 8, 8]])  # "a red block", and nothing
    with torch.no_grad():
        said, nothing = text(ids).last_hidden_state
    repeat = lambda x: x[None].repeat(FRAMES, 1, 1)
    out = pipeline(
        prompt_embeds=repeat(said), negative_prompt_embeds=repeat(nothing),
        image=[tensor(image) for image in images], latents=tensor(noise),
        num_inference_steps=STEPS, guidance_scale=3.0, output_type="np", **options,
    )  # fmt: skip
    return np.round(out.images * 255).astype(np.uint8)


@pytest.mark.parametrize("case", CASES)
def test_sampling_equals_the_pipeline_of_diffusers(case, parts):
    root, networks = parts
    options, scheduler, there = CASES[case]
    folders = {"depth": root.parent / "depth", "edges": root.parent / "edges"}
    editor = load_pretrained(root, folders, num_objects=1)
    config = EditorConfig(steps=STEPS, guidance=3.0, attention="off", is_masked=False, **options)
    video = clip()
    prompts = editor.prompts(["a red block"], [["a blue block"]])
    edit = jax.jit(make_editor(config, editor.spec))
    ours = np.asarray(edit(editor.params, video, prompts, jnp.array([[False]]), jax.random.key(3)))[
        0
    ]
    flat = [x[0] for x in (video.rgb, video.depth, video.normals)]
    images = [condition(kind, *flat, ControlConfig()) for kind in ("depth", "edges")]
    assert images[1].mean() > 0.01  # there are edges
    side = SIZE // editor.spec.vae.downsampling
    noise = frame_noise("shared", video.segmentation, (side, side, 4), jax.random.key(3), 1)
    expected = theirs(networks, scheduler, there, images, noise)
    assert 10 < expected.std() < 110  # a picture, neither flat nor saturated
    error = np.square(ours.astype(float) - expected).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) >= 50, error
