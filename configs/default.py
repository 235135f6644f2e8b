"""Every key with its unit. All other configs start from `get_config` and change a few.

The argument picks a preset: `--config=configs/default.py:official`.
"""

from ml_collections import config_dict

from configs.parts import method_settings, presets


def get_config(preset: str = "paper"):
    c = config_dict.ConfigDict()
    c.name = "default"  # a word for titles
    c.preset = ""  # set by presets.apply; written into every result row
    c.preset_values = ()  # set by presets.apply: "key=value" of all that the preset says
    c.seed = 0  # the only seed: data order, draws and initial weights fold from it
    c.note = ""  # a sentence for the report (hardware, budget)
    c.data = _data()
    c.autoencoder = _autoencoder()
    c.method = "madad"  # the section of `methods` that is used
    # A section a method; configs/baselines/<name>.py bring those of the others.
    c.methods = config_dict.create(madad=method_settings.madad())
    c.denoiser = _denoiser()
    c.diffusion = config_dict.create(
        timesteps=10,
        schedule="cosine",  # cosine | linear
        noise="gaussian",  # gaussian | pyramid (ours); on images simplex too
        octaves=6,  # of simplex noise
        persistence=0.8,  # amplitude of an octave over that of the coarser one before
        frequency=64.0,  # period of the coarsest octave in pixels
    )
    c.synthesis = config_dict.create(
        share=0.0,  # of samples corrupted in the image instead of by noise (ours); 0: none
        max_shapes=3,  # a sample has 1 to so many
        min_radius=0.02,  # of the shapes, shares of the side
        max_radius=0.14,
        min_change=0.06,  # mean change of a cell's pixels that makes it a noised one
        # generic | dag (patches, class biases) | disyre (published) | learned (lesions.bank)
        kind="generic",
    )
    c.contrasts = config_dict.create(  # training on several contrasts or neighbours (ours)
        missing="learned",  # learned | zero: what stands for the latent of a missing one
        keep_all=0.3,  # least share of the samples that show every contrast they have
        same_blocks=0.7,  # share of the samples noised in the same blocks of all contrasts
        hidden=0.3,  # share of the drawn anomalies that a contrast does not show
        # of masks at image resolution: largest | mean of a network for each; joint: one sees all
        fusion="largest",
    )
    c.lesions = config_dict.create(  # drawn by `madad-jax draw-lesions`, pasted in training (ours)
        bank="",  # its lesion_bank.npz; empty: none
        share=0.5,  # mask at image resolution: of its slices with drawn anomalies
        max_lesions=4,  # a slice has 1 to so many
        match=0.5,  # of brightness where drawn and where pasted, in deviations of the brain
    )
    c.atlas = config_dict.create(
        groups=0,  # of healthy slices that a mask at image resolution compares with (ours); 0: none
    )
    c.features = _features()
    c.map = config_dict.create(  # what is done to every method's map
        sigma=5.0,  # Gaussian smoothing in pixels of an image of 256; scaled with the size
        inside_brain=False,  # zero the map outside the brain mask
    )
    # Ours: several looks, several signals (methods/wrappers/ensemble.py).
    c.ensemble = config_dict.create(
        draws=1,  # of the sampler's noise, whose maps are averaged; needs an eta above 0
        flips=False,  # each draw also of the mirrored slice
        combine="none",  # none | mean | geometric | max of the signals | mahalanobis over looks
        smooth_slices=0.0,  # sigma in mm of a Gaussian over a scan's neighbouring slices
    )
    c.optim = config_dict.create(
        name="adamw",  # adamw | adam | muon
        lr=5e-4,
        schedule="warmup_cosine",  # warmup_cosine | official_epochs | constant
        warmup_epochs=10.0,
        final_lr_ratio=0.0,  # of lr, at the end of warmup_cosine
        weight_decay=1e-4,
        decay_mask="all",  # all | matrices
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        grad_clip_norm=0.0,  # 0 does not clip
        muon_lr_ratio=10.0,  # rate of muon's matrices over lr
    )
    c.train = config_dict.create(
        epochs=300,
        steps=0,  # when positive, counts instead of epochs
        batch_size=96,  # global
        accum_steps=1,  # microbatches per optimiser step
        ema_decay=0.0,  # 0 keeps no average
        # Sites or contrasts, one after another (docs/runs.md), as "FLAIR data.modality=FLAIR";
        # empty: one training
        tasks=(),
        continual=_continual(),
    )
    c.log = config_dict.create(
        every_steps=50,
        validate_every_steps=500,
        validate_batches=0,
        track=(),  # wandb, mlflow: get the metrics too (pip install 'madad_jax[track]')
    )
    c.checkpoint = config_dict.create(
        every_steps=500,
        every_minutes=10.0,  # 0: by steps alone
        keep_latest=2,  # and the best by validation loss
    )
    c.profile = ""  # first and last training step of a trace in <run>/profile, as 10:15
    c.eval = _eval()
    c.mesh = config_dict.create(  # sizes of the axes over the whole job
        data=-1,  # -1: what is left
        fsdp=1,
        tensor=1,
        dcn_data=-1,  # slices (pods) that `data` lies over; -1: those there are, over dcn_fsdp
        dcn_fsdp=1,  # slices that `fsdp` lies over: parameters cross the slow network in each step
    )
    c.compile = config_dict.create(
        memory_gib=0.0,  # --mode=compile fails above this, per device; 0: the --topology's memory
    )
    c.benchmark = _benchmark()
    c.matmul_precision = "default"  # default | high | highest (jax_default_matmul_precision)
    presets.apply(c, preset)
    return c


def _continual():
    """What training on a task keeps of the tasks before it."""
    return config_dict.create(
        # none | update | gradient (as published): what is projected onto what the inputs of
        # earlier tasks leave free; empty: update where there are tasks
        projection="",
        basis="moments",  # moments | isvd (as published): how those inputs are summed up
        energy=0.99,  # share of the inputs' second moment that is kept, 0 to 1
        max_rank=1.0,  # most directions of a layer that are kept, over those of its input
        slices=256,  # of each task whose inputs are looked at
        compare=(),  # none | update | gradient | joint: trained beside the tasks, from the first
    )


def _data():
    return config_dict.create(
        # png_folder | array_record | tfds (the same slices packed) | cohort (embedded, synthetic)
        source="png_folder",
        root="",  # png_folder: {train,val,test}/{id}-slice_{k}-{modality|brainmask|...}.png
        modality="T1",  # as the files' names end; several, co-registered, as T1,FLAIR
        neighbours=0,  # slices below and above each slice as further channels (2.5-D)
        image_size=256,  # pixels; slices are padded to square and resized
        augment="paper",  # paper | official | none
        latents="live",  # live | cached: encode in every step, or each slice once before training
        latent_draws=8,  # cached: augmented draws kept of each slice
        latents_dir="",  # cached: where, local; empty: in the run's folder
        cache_dir="",  # cohort: drawn subjects; empty: the user's cache folder
        cohort=config_dict.create(  # subjects a split, and their slices
            train=60,
            train_lesion=30,
            val=8,
            val_lesion=10,
            test=20,
            test_healthy=8,
            slices=12,
            slice_spacing=4.0,  # mm
            field_of_view=208.0,  # mm
        ),
        num_threads=2,  # reading threads
    )


def _autoencoder():
    """LDM's kl-f8 with one channel, 83.6 M parameters."""
    return config_dict.create(
        channels=128,
        channel_mult=(1, 2, 4, 4),  # f = patch * 2 ** (len - 1)
        patch=1,  # pixels a side folded into channels first (ours; the published nets have 1)
        num_res_blocks=2,
        decoder_channels=0,  # 0: as the encoder
        decoder_channel_mult=(),  # empty: as the encoder
        decoder_num_res_blocks=-1,  # -1: as the encoder; a decoder level has one more
        latent_channels=4,
        num_groups=32,
        mid_attention=True,
        attention="chunked",  # chunked | xla | cudnn
        convolution="auto",  # auto (winograd on a CPU where it pays) | plain | winograd
        chunk=0,  # images encoded or decoded at a time; 0: the whole batch
        remat=False,  # recompute blocks in the backward pass
        dtype="float32",  # float32 | bfloat16
        scaling_factor=0.18215,  # multiplies latents; 0: 1 / their spread over the training set
        checkpoint="",  # a trained autoencoder's workdir; empty: train one here
        crop=0,  # train on squares of so many pixels inside the brain; 0: whole slices
        discriminator=True,
        disc_channels=64,
        disc_layers=3,
        lpips="",  # weights of LPIPS-VGG (.npz or .safetensors); empty: term off
        loss=config_dict.create(
            kl_weight=1e-6,
            perceptual_weight=1.0,
            disc_weight=0.5,
            disc_start=50001,
        ),
        optim=config_dict.create(
            name="adam",
            lr=5.4e-5,  # LDM: 4.5e-6 a sample of the batch of 12
            schedule="constant",
            warmup_epochs=0.0,
            final_lr_ratio=1.0,
            weight_decay=0.0,
            decay_mask="all",
            beta1=0.5,
            beta2=0.9,
            eps=1e-8,
            grad_clip_norm=0.0,
            muon_lr_ratio=10.0,
        ),
        train=config_dict.create(epochs=100, steps=0, batch_size=12, accum_steps=1, ema_decay=0.0),
    )


def _denoiser():
    return config_dict.create(
        name="unet",  # unet | dit
        size="L",  # unet: XS S M L XL; dit: S/2 B/2 L/2 XL/2 and smaller, patches 1, 2, 4
        hidden_size=0,  # dit: overrides what the size says; 0 keeps it
        depth=0,
        num_heads=0,
        model_channels=0,  # unet: as above
        channel_mult=(),
        num_res_blocks=0,
        attention_rates=(),
        num_groups=0,
        patch=0,  # unet: squares of so many pixels are folded into channels first (ours)
        init="",  # a run whose denoiser weights training starts from
        residual_x0=False,  # ours: predict the clean latent as a change of the input
        sspcab=0.0,  # unet: weight of the loss of an SSPCAB before the heads (0.1); 0: no block
        dropout=0.4,
        remat=False,  # recompute blocks in the backward pass
        scan=False,  # dit: compile one block and run it for each, in place of all in a row
        attention="chunked",  # chunked | xla | cudnn
        convolution="auto",  # unet: as in autoencoder
        dtype="float32",  # float32 | bfloat16
    )


def _features():
    """The network whose tokens methods on tokens compare (memory_bank, dpmm)."""
    return config_dict.create(
        # dinov2_s14 | dinov2_b14 | dinov2_reg_s14 | dinov2_reg_b14 | dinov3_s16 | dinov3_b16; or
        # masked: a masked autoencoder, trained here on the healthy slices for `train.steps`
        network="dinov2_s14",
        # the network's model.safetensors, as published; empty: untrained, drawn from the seed
        weights="",
        image_size=448,  # pixels a side that slices are brought to first; a multiple of the patch
        # size (transformers) | offset (the authors' code): dinov2's table of positions without
        # registers
        position_resize="size",
        masked=config_dict.create(
            patch=8,  # pixels a side of its squares
            hidden_size=192,  # numbers of a token
            depth=12,  # blocks of its encoder
            decoder_depth=1,  # blocks of its decoder
            num_heads=3,  # of attention
            ratio=0.75,  # share of the squares that is hidden
        ),
        dtype="float32",  # float32 | bfloat16
    )


def _eval():
    return config_dict.create(
        contrasts=(),  # subsets of data.modality to score, as ("T1,FLAIR", "T1"); empty: all
        sets=("test",),  # splits to score; the healthy one joins when it exists
        run="",  # folder of the run whose weights are scored; empty: this one's
        protocol="slices",  # slices | both: whole scans in 3-D too
        spacing_mm=(0.0, 0.0, 0.0),  # between slices, rows, columns; 0: as slices were prepared
        # of whole scans, before they are judged: none | min_volume | pddpm | dae
        postprocess="none",
        # numbers of false positives a scan: whole scans get a threshold for each, from healthy
        # validation scans, and the share of lesions found there
        false_positives_per_scan=(0.5, 1.0, 2.0, 4.0),
        # CSV of lesions with kinds and centres (`evaluation.lesion_list`); empty: lesions.csv in
        # data.root, where there is one
        lesions="",
        batch_size=16,  # global
        checkpoint="best",  # best (by validation loss; an autoencoder's by reconstruction) | latest
        false_positive_rate=0.01,  # of healthy validation brain pixels, sets the threshold
        mean_image_band=0,  # mean training image per so many slice numbers; 0: one for all
        bootstrap=200,  # subject-level draws for the intervals
        panels=12,  # slices shown
    )


def _benchmark():
    """benchmarks.speed: sizes that two CPU cores manage; an accelerator wants larger batches."""
    return config_dict.create(
        rival_python="",  # a Python with torch, monai and diffusers; empty: our figures alone
        rivals=("official", "sdpa", "compiled"),  # ways of the rival
        networks=("unet XS", "dit S/2", "own"),  # denoisers; own: the config's
        rows="",  # measure only rows whose name contains one of these parts, with ; between
        repeats=5,  # rounds that count, after one that does not
        seconds=240.0,  # after which a row begins no further round; 0: none
        batch_size=8,  # of training steps from cached latents
        live_batch_size=2,  # of training steps that encode
        sample_batch_size=1,  # image to anomaly map
        sampler_steps=(10, 2),
        encode_batch_sizes=(1,),
        maps=10000,  # of 256 x 256 pixels, through the figures
        official_maps=20,  # of them through the official loops, then extrapolated
        evaluate_repeats=1,
        scans=8,  # prepared
        protocols=("s2",),  # of data.prepare
        workers=(1, 2),  # processes
        slices=256,  # read by the input suite
        start_seconds=600.0,  # to wait for a first step
        growth_batch_sizes=(1, 2, 4, 8),
        growth_sides=(128, 192, 256),  # pixels
    )
