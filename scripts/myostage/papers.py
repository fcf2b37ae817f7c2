"""Where defaults are from: the papers and programs that keys of a study file name as their source."""

OSLSP = "OSLSP, arXiv 2505.04150"
OSLSP_CODE = "OSLSP's released code"
MYOREGENTRACK = "MyoRegenTrack, Sci Rep 14:27044"
LLP_VAT = "LLP-VAT, arXiv 1910.13188"
SAERENS = "Saerens et al. 2002, Neural Comput 14:21"
MIXBAG = "MixBag, arXiv 2308.08822"
PLOT = "PLOT, arXiv 2105.10635"
CELLPOSE = "Cellpose 3"
SM = "Sm, arXiv 2410.03276"
SRMIL = "SRMIL, arXiv 2602.19487"
DIST = "Dist loss, arXiv 2411.15216"
RNC = "Rank-N-Contrast, arXiv 2210.01189"
DINO = "DINO"
CUMULATIVE_LINK = "McCullagh, J R Stat Soc B 42:109"
CORN = "CORN, arXiv 2111.08851"
SORD = "SORD, CVPR 2019"
EMD = "squared EMD, arXiv 1611.05916"
MINIBAG = "LLP in large bags, arXiv 2408.14130"
COUNT = "count loss, arXiv 2311.13718"
EASYLLP = "EasyLLP, arXiv 2302.03115"
LLP_DC = "LLP-DC, arXiv 2603.21153"
OURS = "ours"

# OSLSP: width of the kernel in similarity, and bins of the histogram.
OSLSP_SIGMA = 0.1
OSLSP_BINS = 6
# MixBag's interval covers 99 % of samples: normal quantile at .995.
MIXBAG_Z = 2.5758
# SRMIL: .2 (cross-entropy of the hidden + that of the whole graph) + 1.8 reconstruction.
SRMIL_WEIGHTS = {"slide": 0.2, "slide_masked": 0.2, "spatial_reconstruction": 1.8}
# Rank-N-Contrast's temperature by similarity.
RNC_TEMPERATURES = {"l2": 2.0, "cosine": 0.1}
