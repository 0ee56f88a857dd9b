#!/usr/bin/env bash
# tests/bench/split.sh held|fresh|grid|chunks|decode FOLDER [METHOD...] - shapes to judge a GPU by, or to calibrate from.
#
# Which shapes judge was written here before any of them was measured, and they are never calibrated with. Drawn with a
# seed, per method: one context from each seventh of the logarithm of 700 to 96K and one shortly above the 2048 tokens
# that are selected, at least 6% from every context that is calibrated with; five batches and nine lengths of prompts
# likewise, and a prompt of whole tiles; of `fresh` five contexts, four batches and seven lengths. `grid` adds to what
# calibrations were made from before: contexts where nothing was measured, and for each level of rows whose algorithms
# the engine chooses apart a length shortly behind its begin; `chunks` short last chunks of long prompts; `decode` what
# is measured again where the kernels of steps that decode have changed.
# All is run twice, the second time in reverse: FOLDER/{held,grid}-METHOD.pftrace and ...-2.pftrace. BUILD names the
# folder of bench_record, MODEL and DEVICE are as its own, LIMIT seconds (default: 60) are what a method may take: cut
# short, its second run is lost, not the first. PASSES (default: 2) are the runs.
#
# `fresh` turned out to be of kernels that the grids had not seen. Before anything was calibrated with it: of its
# contexts, in each method's order, the first, third and fifth calibrate, and of them nothing but what had changed in
# steps that decode: index_score, index_select and attention over all tokens. There they take the place of older
# samples whose rows are at most an octave and whose work each at most half an octave away. All others judge.
set -u
what=${1:-} folder=${2:-} build=${BUILD:-build} rc=0
declare -A held fresh grid

# contexts | batches | prompts
held[clsa]="1198,1477,2879,5346,9313,21861,42238,54672 1,2,7,17,25 98,200,231,524,785,1326,2763,2928,5120,5887"
held[dense]="807,1486,2699,5688,6712,23146,41388,85422 1,2,6,10,23 81,158,313,364,591,1444,1710,3599,5317,7168"
held[token]="796,1905,2307,4723,11585,20344,33524,75843 1,3,6,7,18 78,122,299,366,657,991,2644,3072,4577,6898"
held[indexcache]="1090,1952,2891,3722,7753,22157,42112,65224 1,2,4,11,18 83,153,243,452,694,1089,2291,3131,5629,7168"
held[dsa]="769,2298,2794,5128,6669,16674,25057,98144 1,2,4,8,13 94,142,237,531,753,1592,2082,3802,5120,7843"
held[quest]="1349,1738,2393,4727,6714,21740,27416,59948 1,2,5,8,18 81,161,340,516,763,1266,2358,3072,4394,5172"
held[block]="1400,1854,2971,4853,6746,20787,42126,78245 1,2,4,10,24 77,127,332,433,964,1256,2543,3072,3779,7345"
held[yoco]="879,1431,2339,3449,9912,14479,43422,98029 1,3,6,11,39 71,188,213,349,649,1225,2321,2836,5120,5385"
held[clsa-block]="713,1764,2870,3687,7269,22215,35824,73233 1,2,6,17,27 77,144,268,497,609,1477,2787,3072,3672,7381"

# The same, drawn anew once the model of curves had been mended after the errors on those above.
fresh[clsa]="805,2776,4898,12677,17068,67831 2,4,15,21 102,244,323,1002,1603,3103,5813"
fresh[dense]="1207,1934,2238,10422,18509,37835 1,2,10,18 87,216,491,618,1188,3256,6398"
fresh[token]="1198,2749,4989,6705,21530,67535 2,3,9,19 87,158,292,866,1560,2816,4886"
fresh[indexcache]="1234,2319,2741,10157,21244,59198 1,4,5,23 113,216,483,746,1744,2291,7522"
fresh[dsa]="885,2286,2929,10099,23060,61994 1,3,6,16 87,168,317,933,1928,2129,4162"
fresh[quest]="925,2540,2888,7434,26428,59850 2,4,10,15 133,182,473,774,1374,3596,6636"
fresh[block]="794,1908,2538,5662,22029,71878 2,4,10,16 88,238,353,1056,1361,3915,4426"
fresh[yoco]="772,2904,3375,7379,22271,62153 1,2,8,22 89,245,462,688,1598,3764,4427"
fresh[clsa-block]="1729,2293,4576,11249,15639,45146 1,5,11,29 118,168,401,931,2066,2827,4274"

# contexts | batches | whose prompts: all, or those beyond 1024
grid[clsa]="1600,2150,3200,11264 1,2,4,6,10,16,24 all"
grid[dense]="1600,3000,11264,33792 1,2,4,6,10,16,24 all"
grid[token]="1600,2150,2500,3200,6144,13312,27648,81920,131072 1,2,4,6,10,16,24 long"
grid[indexcache]="1600,2150,3200,11264 1,2,4,6,10,16,24 all"
grid[dsa]="1600,2150,3200,11264 1,2,4,6,10,16,24 long"
grid[quest]="1600,2150,2700,6144,13312,29696,51200,92160,131072 1,2,4,6,10,16,24 long"
grid[block]="1600,2150,2700,6144,13312,29696,51200,92160,131072 1,2,4,6,10,16,24 long"
grid[yoco]="1600,2600,6144,27648,81920,131072 1,2,4,6,10,16,24 long"
grid[clsa-block]="1600,2150,2700,6144,13312,29696,51200,92160,131072 1,2,4,6,10,16,24 long"
short=262,294,326,358,390,422,454,486,525,589,653,717,781,845,909,973
long=1050,1178,1306,1434,1562,1690,1818,1946,2099,2355,2611,2867,3123,3379,3635,3891,4198,4710,5222,\
5734,6246,6758,7270,7782

if [[ ! "$what" =~ ^(held|fresh|grid|chunks|decode)$ ]] || [ ! -d "$folder" ]; then
    echo "split.sh: expected held, fresh, grid, chunks or decode, a folder, and perhaps methods" >&2
    exit 2
fi
shift 2
for method in ${*:-clsa dense token indexcache dsa quest block yoco clsa-block}; do
    if [ -z "${held[$method]:-}" ]; then
        echo "split.sh: $method is no method" >&2
        exit 2
    fi
    case $what in
    held) of=${held[$method]} ;;
    fresh) of=${fresh[$method]} ;;
    *) of=${grid[$method]} ;;
    esac
    read -r contexts batches prompts <<< "$of"
    case $what in
    grid) [ "$prompts" = all ] && prompts=$short,$long || prompts=$long ;;
    decode) contexts=1024,4096,9216,18432,$contexts prompts=64 ;;
    chunks)
        contexts=8256,8900,32968,49300,50100,91000 batches=1 prompts=64
        [ "$method" = token ] && contexts=8256,8900,41160,49300,50100,91000    # 33524 tokens judge it
        ;;
    esac
    timeout -s INT -k 10 "${LIMIT:-60}" "$build/bench_record" --model "${MODEL:-paper-4b}" --device "${DEVICE:-cuda}" \
        --methods "$method" --folder "$folder" --name "$what" --steps 9 --every 3 --passes "${PASSES:-2}" \
        --contexts "$contexts" --batches "$batches" --prompts "$prompts" || rc=1
done
exit $rc
