{{/* warmstart.yaml: the value `config`, plus the keys that the chart sets. */}}

{{- define "warmstart.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $host := ternary "[::]" "0.0.0.0" .Values.ipv6 -}}
{{- $_ := set $config "listen" (printf "%s:%d" $host (int .Values.service.port)) -}}
{{- $_ := set $config "origins" (include "warmstart.origins" . | fromYaml) -}}
{{- if not $config.buckets -}}
{{- $_ := unset $config "buckets" -}}
{{- if eq (len $config.origins) 1 -}}
{{- $_ := set $config "buckets" (dict "*" (dict "origin" (keys $config.origins | first))) -}}
{{- end -}}
{{- end -}}
{{- $disks := list -}}
{{- range $index, $disk := .Values.cache.disks -}}
{{- $disks = append $disks (dict "path" (include "warmstart.diskPath" $index) "size" $disk.size) -}}
{{- end -}}
{{- $_ := set $config "cache" (merge (dict "disks" $disks) (default dict $config.cache)) -}}
{{- $drain := dict "drain_timeout" (printf "%ds" (int .Values.drainSeconds)) -}}
{{- $_ := set $config "limits" (merge $drain (default dict $config.limits)) -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $config "tls" (dict "certificate" "/etc/warmstart-tls/tls.crt" "key" "/etc/warmstart-tls/tls.key") -}}
{{- end -}}
{{- if .Values.cluster.enabled -}}
{{- $_ := set $config "cluster" (include "warmstart.cluster" . | fromYaml) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- define "warmstart.origins" -}}
{{- toYaml (default (dict "s3" (dict "type" "s3")) .Values.config.origins) -}}
{{- end -}}

{{/* The mount path of a disk, by its index. */}}
{{- define "warmstart.diskPath" -}}
{{- printf "/cache/%d" (int .) -}}
{{- end -}}

{{/* The section `cluster`. The secret and the URL of Redis come from Secrets, as variables. */}}
{{- define "warmstart.cluster" -}}
{{- $name := include "warmstart.fullname" . -}}
advertise: {{ include "warmstart.scheme" . }}://{{ ternary "[${POD_IP}]" "${POD_IP}" .Values.ipv6 }}:{{ int .Values.service.port }}
control: {{ printf "%s:%d" (ternary "[::]" "0.0.0.0" .Values.ipv6) (int .Values.service.controlPort) | quote }}
{{- if include "warmstart.byRedis" . }}
prefix: {{ include "warmstart.prefix" . | quote }}
{{- else }}
dns: {{ printf "%s-peers.%s.svc:%d" $name .Release.Namespace (int .Values.service.port) }}
{{- end }}
{{- if .Values.cluster.zoneLabel }}
zone: ${ZONE}
{{- else if .Values.cluster.zone }}
zone: {{ .Values.cluster.zone | quote }}
{{- end }}
{{- if .Values.tls.ca }}
ca_file: /etc/warmstart-tls/{{ .Values.tls.ca }}
{{- end }}
{{- if .Values.tls.existingSecret }}
tls_name: {{ default (printf "%s.%s.svc" $name .Release.Namespace) .Values.tls.name | quote }}
{{- end }}
{{- end -}}

{{/* The prefix of all keys and channels in Redis. */}}
{{- define "warmstart.prefix" -}}
{{- default (printf "%s.%s" .Release.Namespace (include "warmstart.fullname" .) | trunc 64 | trimSuffix "-") .Values.cluster.prefix -}}
{{- end -}}

{{/* The gateway's environment variables. */}}
{{- define "warmstart.env" -}}
{{- $name := include "warmstart.fullname" . -}}
- name: WARMSTART_CONFIG
  value: /etc/warmstart/warmstart.yaml
{{- if .Values.cluster.enabled }}
- name: POD_IP
  valueFrom:
    fieldRef: {fieldPath: status.podIP}
{{- with .Values.cluster.zoneLabel }}
- name: ZONE
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['{{ . }}']
{{- end }}
- name: WARMSTART_CLUSTER__SECRET
  valueFrom:
    secretKeyRef:
      name: {{ default $name .Values.cluster.existingSecret }}
      key: {{ ternary .Values.cluster.existingSecretKey "cluster-secret" (ne .Values.cluster.existingSecret "") }}
{{- if include "warmstart.byRedis" . }}
- name: WARMSTART_CLUSTER__REDIS
  valueFrom:
    secretKeyRef:
      name: {{ default $name .Values.redis.existingSecret }}
      key: {{ ternary .Values.redis.existingSecretKey "redis-url" (ne .Values.redis.existingSecret "") }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
