"""Published results of in-memory training, with one module per result that configures its experiment."""

from reproductions import ambrogio_2018, boybat_2018, burr_2015, gokmen_vlasov_2016, nandakumar_2020, rasch_2024

EXPERIMENTS = {
    "ambrogio-2018": ambrogio_2018.EXPERIMENT,
    "boybat-2018": boybat_2018.EXPERIMENT,
    "burr-2015": burr_2015.EXPERIMENT,
    "gokmen-vlasov-2016": gokmen_vlasov_2016.EXPERIMENT,
    "nandakumar-2020": nandakumar_2020.EXPERIMENT,
    "rasch-2024": rasch_2024.EXPERIMENT,
}
